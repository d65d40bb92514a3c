"""The command line of the toolchain: ``axform optimize``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..console import note, out, showing_progress
from ..core.plan import Focus, Selection
from ..core.tasks import Task
from ..summaries import optimize_tables
from .elements import LayerOrder
from .options import (
    DEFAULTS,
    DISTILLING_RATE,
    FEWEST_STEPS,
    RECOVER,
    FineTuneOptions,
    GroupShape,
    SignMatchingMode,
    checked_options,
)

__all__ = ["optimize_command"]

_SEARCH, _TRAINING, _DATA = "Search", "Fine-tuning", "Data"


def optimize_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Hub name, folder, `minilm` (the model of the quickstart extra), or the folder of another run, whose "
            "baseline and teachers are taken as they are, and whose kept round is where the search starts: for another "
            "focus, or to go further."
        ),
    ],
    task: Annotated[
        str, typer.Option(help="glue/sst2, glue/rte ..., or text-classification / text-regression with --data.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    focus: Annotated[Focus, typer.Option(help="What to gain: accuracy, speed or size.")] = DEFAULTS["focus"],
    max_drop: Annotated[
        float,
        typer.Option(help="Largest accepted drop of the task metric, as a share of the baseline's (0.005 = 0.5 %)."),
    ] = DEFAULTS["max_drop"],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was interrupted; ends in the same plan.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run folder if it exists.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = DEFAULTS["seed"],
    threads: Annotated[
        int | None,
        typer.Option(help="Threads inside one operator; default OMP_NUM_THREADS, else all cores. Kept by --resume."),
    ] = None,
    bf16: Annotated[
        bool | None,
        typer.Option(help="Train and search in bf16; default: where it is fast, by timing. Kept by --resume."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with train.* and validation.* (parquet, jsonl, json, csv, tsv); default: the hub.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            "--unlabelled",
            "--unlabeled",
            help="Folder with unlabelled.* (of the same formats), more texts of the task's kind, e.g. of what a service was "
            "asked: the unpruned model answers them, and the rounds learn from that.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    text_columns: Annotated[
        str | None, typer.Option(help="One text column, or two for a pair: a,b.", rich_help_panel=_DATA)
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.", rich_help_panel=_DATA)] = None,
    train_samples: Annotated[int | None, typer.Option(help="Rows of train to use.", rich_help_panel=_DATA)] = None,
    report_samples: Annotated[
        int | None, typer.Option(help="Rows of validation to report on.", rich_help_panel=_DATA)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help=f"Tokens per sample; default {Task.max_length}.", rich_help_panel=_DATA)
    ] = None,
    recover: Annotated[
        float | None,
        typer.Option(
            help="Let the search cost this much more loss (0.25 = 25 %), counting on the final distillation to win it "
            "back. When it does not, the round is refused and the next one may cost half as much; a search that finds nothing "
            "is made again with twice as much. "
            f"Default {RECOVER} with the speed and size focus, else 0, which is the paper's search.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Searches at most, each with its fine-tuning; a round starts from the last that kept --max-drop on rows "
            "that no trial saw. 1 with --recover 0 is the paper's loop; 0, with --focus size, removes nothing.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["rounds"],
    fewest_bits: Annotated[
        int,
        typer.Option(
            help="Of a weight, with --focus size: all weights and embeddings get as few bits from here to 8 as the bound "
            "allows, and learn to do with them.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["fewest_bits"],
    trial_rows: Annotated[
        int,
        typer.Option(
            help="Rows that a trial is measured on, at most, of those held back to judge trials and epochs.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["trial_rows"],
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Keep a round only when the lower end of its change's interval at this level keeps --max-drop, "
            "e.g. 0.9; default: when the estimate does.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["confidence"],
    prune_threshold: Annotated[
        float, typer.Option(help="Relative loss below which an element is pruned.", rich_help_panel=_SEARCH)
    ] = DEFAULTS["prune_threshold"],
    approximate_threshold: Annotated[
        float, typer.Option(help="Relative loss below which an element is approximated.", rich_help_panel=_SEARCH)
    ] = DEFAULTS["approximate_threshold"],
    group_size: Annotated[
        int | None,
        typer.Option(help="Weights per group; default 256, less for small models.", rich_help_panel=_SEARCH),
    ] = None,
    layer_order: Annotated[
        LayerOrder,
        typer.Option(help="last-to-first, or first-to-last where the top layers matter more.", rich_help_panel=_SEARCH),
    ] = DEFAULTS["layer_order"],
    sign_matching: Annotated[
        SignMatchingMode,
        typer.Option(
            help="Sign-matching attention with the speed focus: on, off, or auto, which tries it from 128 tokens on: "
            "attention is only 3 % of the FLOPs at 128 tokens and 10 % at 512, so it pays for long inputs.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["sign_matching"],
    selection: Annotated[
        Selection,
        typer.Option(help="How sign matching ranks keys: majority (the paper's) or count.", rich_help_panel=_SEARCH),
    ] = DEFAULTS["selection"],
    ffn_groups: Annotated[
        GroupShape,
        typer.Option(help="FFN groups to keep with the speed focus: any or contiguous.", rich_help_panel=_SEARCH),
    ] = DEFAULTS["ffn_groups"],
    attention_groups: Annotated[
        GroupShape,
        typer.Option(
            help="ATTN input groups to keep with the speed focus: contiguous (one Slice) or any (a Gather).",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["attention_groups"],
    baseline_epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs before the search; default {FineTuneOptions.epochs}, or 0 when the model brings a trained task head.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    final_epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs of a round, with the plan applied; default {FineTuneOptions.epochs}, of few rows as many as make "
            f"{FEWEST_STEPS:,} steps, for long trainings win back what short ones lose. 0 = only search.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(help="Peak of the linear decay.", rich_help_panel=_TRAINING)
    ] = DEFAULTS["learning_rate"],
    final_learning_rate: Annotated[
        float | None,
        typer.Option(
            help=f"The same for the trainings with a plan; default {DISTILLING_RATE:g} times --learning-rate with a teacher, "
            "but the same where several teach a model to gain.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per batch.", rich_help_panel=_TRAINING)] = DEFAULTS[
        "batch_size"
    ],
    distill: Annotated[
        bool,
        typer.Option(
            "--distill/--no-distill",
            help="Use the unpruned model as teacher in the final fine-tuning, or not (the paper's plain form).",
            rich_help_panel=_TRAINING,
        ),
    ] = DEFAULTS["distill"],
    teachers: Annotated[
        int,
        typer.Option(
            help="Models that teach together: the baseline, and others fine-tuned like it with other seeds, each of which "
            "costs what the baseline does. With 3 or more a first round removes nothing and gains what one model does not know, "
            "from their answers to rows with some tokens replaced; later rounds keep that, or spend it.",
            rich_help_panel=_TRAINING,
        ),
    ] = DEFAULTS["teachers"],
) -> None:
    """Find what the task does not need: fine-tune, search element by element, fine-tune what is left.

    Example: axform optimize minilm --task glue/sst2 --data data --focus speed --out runs/sst2
    """
    options = checked_options(
        model=model,
        task=task,
        focus=focus,
        data=data,
        unlabelled=unlabelled,
        text_columns=() if text_columns is None else tuple(text_columns.split(",")),
        label_column=label_column,
        max_length=max_length,
        train_samples=train_samples,
        report_samples=report_samples,
        seed=seed,
        prune_threshold=prune_threshold,
        approximate_threshold=approximate_threshold,
        max_drop=max_drop,
        recover=recover,
        rounds=rounds,
        fewest_bits=fewest_bits,
        trial_rows=trial_rows,
        confidence=confidence,
        group_size=group_size,
        layer_order=layer_order,
        sign_matching=sign_matching,
        selection=selection,
        ffn_groups=ffn_groups,
        attention_groups=attention_groups,
        baseline_epochs=baseline_epochs,
        final_epochs=final_epochs,
        learning_rate=learning_rate,
        final_learning_rate=final_learning_rate,
        batch_size=batch_size,
        distill=distill,
        teachers=teachers,
        threads=threads,
        bf16=bf16,
    )
    try:
        with showing_progress() as progress:
            from .optimize import optimize
            from .run_folder import RunFolder

            record = optimize(options, out_dir, resume=resume, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt:
        _explain_resume()
        raise typer.Exit(130) from None
    for table in optimize_tables(record, RunFolder(out_dir).read_plan()):
        out.print(table)
    _explain_next(out_dir)


def _explain_next(run: Path) -> None:
    words = ["axform-export", str(run), "--out", str(Path("bundles", run.name))]
    out.print(f"next: {shlex.join(words)}", soft_wrap=True)


def _explain_resume() -> None:
    words = [
        Path(sys.argv[0]).name,
        *(word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")),
        "--resume",
    ]
    note(f"interrupted; the state is kept, continue with: {shlex.join(words)}")
