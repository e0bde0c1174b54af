"""What is said of a command line that cannot be carried out as it was typed: the nearest word that can."""

import re
from typing import Any

from densenet_port.errors import UsageError, nearest

COMMANDS = {  # what other tools call it → what it is called here
    "compare": "diff",
    "describe": "inspect",
    "download": "fetch",
    "export": "convert",
    "info": "inspect",
    "list": "layouts",
    "models": "archs",
    "show": "inspect",
    "test": "check",
    "transform": "convert",
    "translate": "convert",
    "validate": "check",
}
FILE = "a file"  # what is given without an option
OPTIONS = {  # likewise; of several, those that the command has
    "--architecture": ("--arch",),
    "--checkpoint": (FILE,),
    "--destination": ("--out",),
    "--file": (FILE,),
    "--format": ("--dst",),
    "--framework": ("--backend", "--src"),
    "--from": ("--checkpoint", FILE, "--src"),
    "--include-top": ("--no-top",),
    "--input-file": ("--checkpoint", FILE),
    "--layout": ("--dst", "--src"),
    "--model": ("--arch", FILE),
    "--model-name": ("--arch",),
    "--name": ("--arch",),
    "--original": ("--against",),
    "--output-dir": ("--out-dir", "--out"),
    "--output-file": ("--out",),
    "--output-path": ("--out",),
    "--overwrite": ("--force",),
    "--path": (FILE,),
    "--precision": ("--dtype",),
    "--silent": ("--quiet",),
    "--source": ("--checkpoint", FILE),
    "--target": ("--dst",),
    "--to": ("--dst",),
    "--type": ("--dtype",),
    "--weights": (FILE,),
    "--yes": ("--force",),
    "-f": ("--force",),
    "-i": ("--checkpoint", FILE),
    "-o": ("--out",),
}


def explained(error: Any) -> UsageError:
    """What Click says of a command line, in our words where it is an unknown option or command."""
    context = getattr(error, "ctx", None)
    see = f"see: {context.command_path if context else 'densenet-port'} --help"
    if context and (option := getattr(error, "option_name", "")) and "No such option" in error.message:
        return UsageError(f"No such option: {option}", hint=_option(option, context.command) + see)
    if context and (unknown := re.match("No such command '(.*?)'", error.message)):
        word, known = unknown[1], list(context.command.commands)
        meant = COMMANDS.get(word)
        near = f"did you mean {meant}? " if meant in known else nearest(word, known)
        return UsageError(f"No such command {word!r}", hint=near + see)
    message = getattr(error, "format_message", error.__str__)()
    return UsageError(message, hint=see)


def _option(option: str, command: Any) -> str:
    """How the hint begins about an option that a command does not have."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    known = {name: name for parameter in command.params for name in parameter.opts if name.startswith("-")}
    if arguments:
        known[FILE] = f"{arguments[0].metavar or arguments[0].name.upper()} without an option"
    meant = [known[name] for name in OPTIONS.get(option, ()) if name in known]
    return f"did you mean {' or '.join(meant)}? " if meant else nearest(option, known)
