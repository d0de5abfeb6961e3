"""Tasks from the user's own code: ``my_module:make_task`` or ``path/to/file.py:make_task``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fallline.core.errors import FalllineError, nearest
from fallline.tasks.task import Task

__all__ = ["find_user_object", "is_reference", "load_user_task"]


def is_reference(name: str) -> bool:
    """Whether a name refers to the user's code, not to the registry."""
    return ":" in name or name.endswith(".py")


def load_user_task(reference: str, path: Path | str | None = None) -> Task:
    """Import the module with the working directory on the path, call the function, and return its Task."""
    where, _, attribute = reference.rpartition(":")
    if path is not None and where and attribute:
        raise FalllineError(
            f"A data folder ({path}) was given for {reference!r}. It applies only to tasks that come with fallline. "
            f"Read your data in {attribute}()."
        )
    return _made(reference, find_user_object(reference, "make_task", "returns a fallline.tasks.Task"))


def find_user_object(reference: str, example: str, does: str) -> object:
    """What ``MODULE:NAME`` names in the user's code; ``example`` and ``does`` say in errors what was expected there."""
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        name = where or attribute
        raise FalllineError(
            f"{reference!r} names no function. Expected MODULE:FUNCTION, where FUNCTION {does}. "
            f"Write for example {name if name.endswith('.py') else name or 'my_module'}:{example}."
        )
    module = _module(where)
    if not hasattr(module, attribute):
        own = [
            name for name, value in vars(module).items() if not name.startswith("_") and _may_make_task(value, module)
        ]
        close = nearest(attribute, own) or own
        known = f"It has {', '.join(close)}." if close else "It defines no function."
        raise FalllineError(f"{where} has no {attribute!r}. {known} Write {where}:{close[0] if close else example}.")
    found: object = getattr(module, attribute)
    return found


def _made(reference: str, value: object) -> Task:
    if isinstance(value, Task):
        return value
    attribute = reference.rpartition(":")[2]
    if not callable(value):
        raise FalllineError(
            f"{reference} is a {type(value).__name__}. Expected a function that returns a fallline.tasks.Task. "
            f"Define it as: def {attribute}(): return Task(...)."
        )
    try:
        task = value()
    except FalllineError:
        raise  # already says what is wrong
    except Exception as error:
        raise FalllineError(
            f"{attribute}() raised {_last_words(error)}. It must return a fallline.tasks.Task when called without "
            f"arguments. Call it by hand to see the whole traceback."
        ) from error
    if not isinstance(task, Task):
        raise FalllineError(
            f"{reference} returned a {type(task).__name__}. Expected a fallline.tasks.Task. "
            f"End the function with: return Task(name=..., model=..., ...)."
        )
    return task


def _module(where: str) -> ModuleType:
    file = Path(where).expanduser()
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    if is_file and not file.is_file():
        raise FalllineError(f"There is no file {where}. Expected a Python file. It was looked for in {Path.cwd()}.")
    try:
        with _on_path([Path.cwd(), *([file.resolve().parent] if is_file else [])]):
            return _from_file(file.resolve()) if is_file else importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not is_file and error.name and (where == error.name or where.startswith(f"{error.name}.")):
            raise FalllineError(
                f"There is no module {where!r}. Expected one that Python can import from {Path.cwd()} or from the "
                f"environment. Go to its folder, or write path/to/file.py:FUNCTION."
            ) from None
        raise FalllineError(
            f"{where} could not be imported: it needs the module {error.name!r} ({_place(error)}). Every import of a task's "
            f"module must succeed. Install it, or correct its name."
        ) from error
    except Exception as error:
        raise FalllineError(
            f"{where} could not be imported: {_last_words(error)}. A task's module must import without errors. "
            f"Run python {where if is_file else f'-m {where}'} to see the whole traceback."
        ) from error


def _from_file(file: Path) -> ModuleType:
    name = f"fallline_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise FalllineError(f"{file} is not a Python file. Expected a name that ends in .py. Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    spec.loader.exec_module(module)
    return module


@contextmanager
def _on_path(folders: list[Path]) -> Iterator[None]:
    added = [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _may_make_task(value: object, module: ModuleType) -> bool:
    return isinstance(value, Task) or (callable(value) and getattr(value, "__module__", None) == module.__name__)


def _last_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".") + f" ({_place(error)})"


def _place(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '?').name}:{error.lineno}"
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
