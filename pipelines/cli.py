"""One command for all of them: `sysdesign train --train.lora.rank 32` is `python -m pipelines.train --train.lora.rank 32`.

sysdesign completion bash|zsh|fish prints what the shell evaluates to complete commands, profiles, fields and their values.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import runpy
import sys
from pathlib import Path

from pipelines.command import errors_as_lines
from sysdesign.errors import ConfigError

HERE = Path(__file__).parent
ORDER = (
    "doctor",
    "plan",
    "all",
    "base",
    "diagrams",
    "conversations",
    "dataset",
    "explain",
    "train",
    "export",
    "evaluate",
    "deploy",
    "chat",
    "sweep",
)
INNER = ("command", "cli", "probe", "trial")  # what other commands start, and what is no command
WHOLE = ("all", "plan", "doctor", "explain")  # commands that take every section's fields
SHELLS = {
    "bash": """_sysdesign() {
  local IFS=$'\\n'
  COMPREPLY=($(sysdesign --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [[ ${COMPREPLY[0]} == *, ]] && compopt -o nospace
}
complete -o default -F _sysdesign sysdesign
""",
    "zsh": """#compdef sysdesign
_sysdesign() {
  local -a found
  found=("${(@f)$(sysdesign --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found
}
compdef _sysdesign sysdesign
""",
    "fish": """complete -c sysdesign -f -a '(sysdesign --complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}


def main() -> None:
    """Run the command that is named first with the rest of the line."""
    words = sys.argv[1:]
    with errors_as_lines():
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
        elif words[0] == "--complete":
            print("\n".join(complete(words[1:])))
        elif words[0] == "completion":
            print(script(words[1:]), end="")
        else:
            name = _known(words[0])
            sys.argv = [f"sysdesign {name}", *words[1:]]
            runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=False)


def commands() -> dict[str, str]:
    """Command -> what it does, in the order in which a newcomer meets them."""
    found = {path.stem: _first_line(path) for path in HERE.glob("*.py") if path.stem not in INNER and not path.stem.startswith("_")}
    known = [name for name in ORDER if name in found]
    return {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}


def usage() -> str:
    """The page that `--help` prints."""
    lines = ["sysdesign COMMAND [--profile a,b] [--section.field VALUE ...]", ""]
    lines += [f"  {name:14} {about}" for name, about in commands().items()]
    return "\n".join([*lines, "", "sysdesign COMMAND --help lists its fields; sysdesign completion bash|zsh|fish sets up your shell"])


def script(words: list[str]) -> str:
    """What a shell evaluates. Raises ConfigError for another shell."""
    shell = words[0] if words else ""
    if shell not in SHELLS:
        raise ConfigError("completion", f"knows {', '.join(SHELLS)}", 'write: eval "$(sysdesign completion bash)"', shell)
    return SHELLS[shell]


def complete(words: list[str]) -> list[str]:
    """What the last of `words` may become."""
    *before, last = words or [""]
    if not before:
        return [name for name in [*commands(), "completion"] if name.startswith(last)]
    name = before[0]
    if name == "completion":
        return [shell for shell in SHELLS if shell.startswith(last)]
    if name not in commands():
        return []
    if before[-1] == "--profile":
        return _profiles(last)
    options = _options(name)
    if before[-1] in options:
        return [value for value in options[before[-1]] if value.startswith(last)]
    return [option for option in ["--help", *options] if option.startswith(last)]


def _profiles(last: str) -> list[str]:
    from sysdesign.profiles import CONF

    *taken, start = last.split(",")
    names = sorted(path.stem for path in CONF.glob("*.yaml"))
    return [",".join([*taken, name]) for name in names if name.startswith(start) and name not in taken]


def _options(name: str) -> dict[str, list[str]]:
    """Flag -> the values it may have, where they are known."""
    from sysdesign.config.root import Config
    from sysdesign.profiles import fields

    sections = set(Config.model_fields) if name in WHOLE else {"seed", name, "runtime"}
    found: dict[str, list[str]] = {"--profile": []}
    for own in getattr(importlib.import_module(f"pipelines.{name}"), "OWN", {}):
        found[f"--{own}"] = []
    for field in fields(Config):
        if field.path.split(".")[0] in sections:
            values = (
                ["true", "false"] if field.type == "bool" else field.type.split("|") if "|" in field.type and "[" not in field.type else []
            )
            found[f"--{field.path}"] = [value.strip() for value in values if value.strip() != "None"]
    return found


def _known(name: str) -> str:
    known = commands()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(
            "command", f"must be one of {', '.join(known)}", f"did you mean {near[0]}?" if near else "see sysdesign --help", name
        )
    return name


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
