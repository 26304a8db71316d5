"""The story of an example or a token: where it came from, what it is worth and by which scoring, and what each policy makes of it."""

from dataclasses import dataclass

import polars as pl

from warehouse.read import Reader


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a release holds on an example.

    Attributes:
        example_id: the example.
        content: its content, as canonical JSON.
        position: the token that was asked for; None where it was the whole example.
        snapshots: the snapshots that hold it, the newest first.
        sequences: what became of it under the current tokenization, a row per branch; none where that never saw it.
        values: a row per branch, position and column of values, with the place of the value in its response; none where the example is
            not in the current snapshot or has no values.
        lineage: a row per policy, branch and position; see the named query `lineage`.
    """

    example_id: str
    content: str
    position: int | None
    snapshots: pl.DataFrame
    sequences: pl.DataFrame
    values: pl.DataFrame
    lineage: pl.DataFrame

    @property
    def is_current(self) -> bool:
        """Whether the example belongs to the current training snapshot."""
        return bool(((self.snapshots["role"] == "train") & self.snapshots["is_current"]).any())


def explain(reader: Reader, example_id: str, position: int | None = None) -> Story:
    """Gather the story of an example, or of one of its response tokens.

    Args:
        reader: the release.
        example_id: the example, or the beginning of its id where only one begins so.
        position: 0-based index of a response token in its sequence; the whole example when absent.

    Returns:
        the story; frames of values and lineage hold the token alone where one is asked for.

    Raises:
        ValueError: no example or several have such an id, or it has no response token at that position.
    """
    found = find_example(reader, example_id)
    values = reader.frame("explain/values", example_id=found)
    lineage = reader.named("lineage", example_id=found)
    if position is not None:
        there = values["position"].unique().sort().to_list()
        if position not in there:
            which = f"they are {_ranges(there)}" if there else "it has no values in this release"
            raise ValueError(f"position {position} of example {found} is no response token with values; {which}")
        values, lineage = (frame.filter(pl.col("position") == position) for frame in (values, lineage))
    row = reader.one("explain/content", example_id=found)
    assert row is not None, "the example was found just now"
    return Story(
        example_id=found,
        content=str(row[0]),
        position=position,
        snapshots=reader.frame("explain/snapshots", example_id=found),
        sequences=reader.frame("explain/sequences", example_id=found),
        values=values,
        lineage=lineage,
    )


def find_example(reader: Reader, example_id: str) -> str:
    """Complete the beginning of an example's id.

    Returns:
        the whole id.

    Raises:
        ValueError: none or several fit.
    """
    nearest = [
        (str(found), int(num_common)) for found, num_common in reader.run("explain/nearest_examples", example_id=example_id).fetchall()
    ]
    fitting = [found for found, num_common in nearest if example_id and num_common == len(example_id)]
    if example_id in fitting:
        return example_id
    if len(fitting) > 1:
        raise ValueError(f"several examples begin with {example_id!r}: {', '.join(fitting)}{' ...' if len(fitting) == 6 else ''}")
    if not fitting:
        if not nearest:
            raise ValueError(f"there is no example {example_id!r}: the release {reader.release.release_id} holds none")
        closest, num_common = nearest[0]
        like = (
            f"nearest is {closest}, with the same {num_common} first characters" if num_common else "no id begins with the same character"
        )
        raise ValueError(f"there is no example {example_id!r} in release {reader.release.release_id}; {like}. The view examples lists them")
    return fitting[0]


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in parts)
