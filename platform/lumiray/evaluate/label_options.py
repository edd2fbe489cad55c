"""The command line of the job that has a teacher put boxes around noun phrases of captions; read without torch, Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lumiray.errors import UserError, check_number
from lumiray.evaluate.use_options import UseCommand, with_system_options


@dataclass(frozen=True)
class LabelOptions:
    """Which captions, whose phrases, where the rows with boxes go, and by how many processes."""

    shards: str
    """Image-text shards: folder, pattern or s3://."""
    output: str
    """Folder for the shards with boxes, local or s3://: one for each of --shards."""
    phrases_model: str
    """SpaCy pipeline that finds nouns: the name of an installed one, such as en_core_web_sm, or its folder."""
    threshold: float = 0.5
    """Boxes with a higher score are kept (card glip, Two-stage self-training)."""
    workers: int = 1
    """Processes; with several, or with RAY_ADDRESS set, Ray Data shares the shards between them."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be, and what is empty.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("threshold", self.threshold, 0, 1)
        check_number("workers", self.workers, 1)
        for option, value in (("output", self.output), ("phrases-model", self.phrases_model)):
            if not value:
                raise UserError(f"--{option} is empty.")


LabelCommand = UseCommand[LabelOptions]


def read_label_command(slug: str, arguments: Sequence[str], description: str) -> LabelCommand:
    """Read `--weights FILE --shards SHARDS --phrases-model NAME --output FOLDER ...`, with the options of the teacher.

    Where the weights are a run's, its settings are the defaults of the teacher's options.

    Raises:
        UserError: the run is another system's.
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    return with_system_options(LabelOptions, slug, arguments, description)
