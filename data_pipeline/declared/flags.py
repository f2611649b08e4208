"""True and false are no numbers: what takes them for 1 and 0, as pydantic does, is refused where users write."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

B = TypeVar("B", bound=BaseModel)
Place = tuple[str | int, ...]


def checked(kind: type[B], written: Any) -> B:
    """Makes what was written, plain data, into a `kind`.

    Raises ValidationError as pydantic does, and for true or false in the place of a number.
    """
    made = kind.model_validate(written)
    details = [
        InitErrorDetails(type=PydanticCustomError("flag", "expected a number"), loc=place, input=flag)
        for place, flag in _flags_for_numbers(written, made)
    ]
    if details:
        raise ValidationError.from_exception_data(kind.__name__, details)
    return made


def _flags_for_numbers(written: Any, made: Any, place: Place = ()) -> Iterator[tuple[Place, bool]]:
    """Yields where something written is true or false and what was made of it is a number."""
    if isinstance(written, bool):
        if isinstance(made, int | float) and not isinstance(made, bool):
            yield place, written
    elif isinstance(written, Mapping):
        parts = _parts(made)
        for key, value in written.items():
            yield from _flags_for_numbers(value, parts.get(key), (*place, str(key)))
    elif isinstance(written, list | tuple) and isinstance(made, list | tuple):
        for i, (value, part) in enumerate(zip(written, made, strict=False)):
            yield from _flags_for_numbers(value, part, (*place, i))


def _parts(made: Any) -> Mapping[Any, Any]:
    """Returns what lies under the keys of a mapping, or of a declaration, by whichever name they may be written."""
    if isinstance(made, BaseModel):
        fields = type(made).model_fields.items()
        return {key: getattr(made, name) for name, field in fields for key in (name, field.alias) if key}
    return made if isinstance(made, Mapping) else {}
