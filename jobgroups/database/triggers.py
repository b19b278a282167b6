"""Triggers that number the changes of children: an answer that was kept is patched with the
children that changed since.

No statement can leave them out, nor the previous release beside this one. A migration that makes
one of their tables again, as Django does on SQLite for most changes of a column, has ``DROP``
before and ``CREATE`` after it.
"""

from typing import Any, Final

from django.db.migrations import RunPython

#: A writer locks the row of its group before it changes children: the number is that of the
#: transaction before, plus 1. It is larger than the ``seq`` and ``revision`` of every answer that
#: lacks the change. A claim locks no group; its number may be less, and open children are read
#: every second.
_NUMBER: Final = "SELECT seq + revision + 1 FROM jobgroups_jobgroup WHERE id = NEW.group_id"
#: Has the trigger of a child number it.
_TOUCH: Final = "UPDATE jobgroups_childjob SET changed = changed WHERE id"
_ON_SQLITE: Final = (
    "UPDATE jobgroups_childjob SET changed = ({number}) WHERE id = NEW.id"
    # Not for its own change, also if ``recursive_triggers`` is on.
    " AND NEW.changed IS OLD.changed"
)
#: By name: the table and the moment, and the body. Captures are deleted with their children alone.
_TRIGGERS: Final[dict[str, tuple[str, str]]] = {
    "capture_made": ("capture AFTER INSERT", f"{_TOUCH} = NEW.child_id"),
    "capture_changed": ("capture AFTER UPDATE OF file_id, reason", f"{_TOUCH} = NEW.child_id"),
    "file_changed": (
        "storedfile AFTER UPDATE",
        f"{_TOUCH} IN (SELECT child_id FROM jobgroups_capture WHERE file_id = NEW.id)",  # noqa: S608 no input in it
    ),
}


def _create(_apps: Any, schema_editor: Any) -> None:
    on_sqlite = schema_editor.connection.vendor == "sqlite"
    own = ("childjob AFTER UPDATE", _ON_SQLITE.format(number=_NUMBER))
    if not on_sqlite:
        own = ("childjob BEFORE UPDATE", f"NEW.changed := ({_NUMBER})")
    for name, (place, body) in {"child_changed": own, **_TRIGGERS}.items():
        table, moment = place.split(maxsplit=1)
        trigger = f"CREATE TRIGGER {name} {moment} ON jobgroups_{table} FOR EACH ROW"
        if on_sqlite:
            schema_editor.execute(f"{trigger} BEGIN {body}; END")
        else:
            function = f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$"
            schema_editor.execute(f"{function} BEGIN {body}; RETURN NEW; END $$")
            schema_editor.execute(f"{trigger} EXECUTE FUNCTION {name}()")


def _drop(_apps: Any, schema_editor: Any) -> None:
    for name in ("child_changed", *_TRIGGERS):
        on_sqlite = schema_editor.connection.vendor == "sqlite"
        schema_editor.execute(
            f"DROP TRIGGER {name}" if on_sqlite else f"DROP FUNCTION {name} CASCADE"
        )


CREATE: Final = RunPython(_create, _drop)
DROP: Final = RunPython(_drop, _create)
