"""Values of JSON or YAML become dataclasses, each taken only for what it is."""

from __future__ import annotations

from cattrs import AttributeValidationNote, Converter

from mdlm_atat.config.section import expect


def strict_converter() -> Converter:
    """A converter that takes a plain value only for what it is: neither "6" nor 6.5 nor true is the number 6."""
    converter = Converter()
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, expect)
    return converter


def name_of_field(error: BaseException) -> str | None:
    """The name of the field whose value was not taken, of an error among those of a BaseValidationError; None where it
    is of the whole."""
    notes = getattr(error, "__notes__", ())
    return next((note.name for note in notes if isinstance(note, AttributeValidationNote)), None)
