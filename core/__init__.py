"""What every part of axform shares: the plan, the families, the tasks, batches and bounds.

Imports numpy and pydantic only, so that rewrites, function bodies and the runtime come without torch.
"""
