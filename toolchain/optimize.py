"""`axform optimize`: which folder a run may use, what it continues from, and what it must not be mixed with."""

from __future__ import annotations

from pathlib import Path

from ..core.progress import Progress
from ..errors import AxformError
from ..files import real_path, replace_folder, write_folder
from ..locks import locked
from ..outputs import check_output_folder, holds_files, mark
from .data import settle_task_data
from .models import LoadedModel
from .options import DEFAULTS, USED_BY, OptimizeOptions
from .origin import Origin
from .precision import computing_in_bf16, has_fast_bf16
from .run_folder import RunFolder, RunRecord
from .stages import Stages, epochs_before
from .threads import computing_with, default_threads

__all__ = ["optimize"]


def optimize(
    options: OptimizeOptions,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunRecord:
    """Find the parts that the task does not need and write the run folder ``out``.

    The baseline is fine-tuned first (skipped for a model that brings a trained head), the search only evaluates, and
    the model with the plan applied is fine-tuned at the end (AxFormer v1, Algorithm 3). A killed run continues with
    ``resume`` and ends in the same plan and weights. With ``overwrite`` a run that is there stays until the new one is
    finished.

    Raises:
        AxformError: bad options, data or model, or a folder that is not free; the message says what to do.
    """
    options = _with_full_paths(options)
    progress = progress or Progress()
    run = RunFolder(out)
    if not (resume and (run.is_started() or run.replacement.is_started())):
        check_output_folder(out, "run", overwrite, options.folders)
    with locked(out):
        return _optimize(options, run, resume, progress)


def _optimize(options: OptimizeOptions, run: RunFolder, resume: bool, progress: Progress) -> RunRecord:
    target = _target(run, resume)
    continues = resume and target.is_started()
    before = None
    options = _settled(options, target.read_options() if continues else None)
    if continues:
        _check_same_options(target, options)
        if target.is_finished():
            before, missing = target.read_record(), target.missing()
            if missing is None:
                return _put_in_place(target, run)
            progress.message(f"{missing}; it is made again")
    else:
        _check_used(options)
    origin = Origin.of(options)
    data = settle_task_data(options)
    for remark in data.remarks:
        progress.message(remark)
    loaded = origin.load(data.task, data.num_labels)
    _check_fits(origin, loaded)
    with computing_with(options.threads or default_threads()), computing_in_bf16(bool(options.bf16)):
        stages = Stages(origin, target, data, loaded, progress)
        if not continues:
            with write_folder(target.path) as staging:
                mark(staging, "run")
                RunFolder(staging).write_options(options)
        if target is not run:
            progress.message(
                f"{run.path} stays as it is until the new run is finished; the new one grows in {target.path}"
            )
        stages.execute()
    record = _put_in_place(target, run)
    if before is not None and record.is_other_than(before):
        progress.message(f"what was made again is not what it was: {before.versions} then, {record.versions} now")
    return record


def _settled(options: OptimizeOptions, before: OptimizeOptions | None) -> OptimizeOptions:
    """With what is left to the machine: as the run was started, else as is best here."""
    threads, bf16 = (default_threads(), has_fast_bf16()) if before is None else (before.threads, before.bf16)
    return options.model_copy(
        update={"threads": options.threads or threads, "bf16": bf16 if options.bf16 is None else options.bf16}
    )


def _target(run: RunFolder, resume: bool) -> RunFolder:
    """Where the run is made: in its folder, or beside it while another run holds its place."""
    if resume and run.replacement.is_started():
        return run.replacement
    if holds_files(run.path) and not (resume and run.is_started()):
        return run.replacement
    return run


def _put_in_place(target: RunFolder, run: RunFolder) -> RunRecord:
    if target is not run:
        replace_folder(target.path, real_path(run.path))
    return run.read_record()


def _with_full_paths(options: OptimizeOptions) -> OptimizeOptions:
    """Folders by their full paths, so that a run continues and is exported from any other folder."""
    found = {
        name: str(real_path(Path(value)))
        for name, value in (("model", options.model), ("data", options.data), ("unlabelled", options.unlabelled))
        if value is not None and (name != "model" or Path(value).is_dir())
    }
    return options.model_copy(update=found)


def _check_same_options(run: RunFolder, options: OptimizeOptions) -> None:
    before, now = run.read_options().model_dump(), options.model_dump()
    for name, value in before.items():
        if now[name] != value:
            raise AxformError(
                f"{run.path}: was started with {name} = {value!r}, now {now[name]!r}; "
                "resume with the same options, or start again with --overwrite."
            )


def _check_used(options: OptimizeOptions) -> None:
    """Refuse what would be ignored."""
    for name, focus in USED_BY.items():
        value = getattr(options, name)
        if focus != options.focus and value != DEFAULTS[name]:
            option = "--" + name.replace("_", "-")
            raise AxformError(
                f"{option} {value}: only --focus {focus} uses it, and this is --focus {options.focus}; leave it out."
            )


def _check_fits(origin: Origin, loaded: LoadedModel) -> None:
    """What can only be judged with the model at hand, before anything is written."""
    options = origin.options
    if options.baseline_epochs == 0 and not loaded.has_trained_head:
        raise AxformError(
            f"model {options.model!r}: has no trained sequence classification head, so it must be fine-tuned first; "
            "leave out --baseline-epochs 0."
        )
    if not options.is_taught:
        why = "--final-epochs 0" if options.distill else "--no-distill"
        taught = {
            f"--teachers {options.teachers}": options.teachers > 1,
            "--unlabelled": options.unlabelled is not None,
        }
        for option in (name for name, is_asked in taught.items() if is_asked):
            raise AxformError(f"{option}: nothing is taught with {why}; leave one of them out.")
    if options.teachers > 1 and origin.run is None and not epochs_before(options, loaded):
        raise AxformError(
            f"--teachers {options.teachers}: the model is taken as the baseline as it is, so no others like it can be "
            "trained; give the pre-trained model, --baseline-epochs, or a run that has as many teachers."
        )
    smallest = min(loaded.shape.hidden_size, loaded.shape.intermediate_size)
    if options.group_size is not None and options.group_size > smallest:
        raise AxformError(f"--group-size {options.group_size}: larger than the model's {smallest} features.")
