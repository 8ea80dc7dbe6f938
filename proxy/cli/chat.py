"""`tandem chat`: a conversation with a model on the terminal, or one answer for a script."""

import importlib
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from proxy.cli.command import (
    AsJson,
    CommandError,
    ConfigFile,
    Url,
    print_json,
    read_settings,
)
from proxy.cli.conversation import Conversation, Piece
from proxy.cli.names import complete_model, require_name, to_segment

if TYPE_CHECKING:
    from rich.console import Console

    from proxy.cli.running_server import RunningServer

_STDIN_SECONDS = 10.0
"""For the first data of a pipe beside a prompt: a command before it may load a model."""
_HELP = """\
/image PATH    add an image to the next message; a path in a message works, too
/system TEXT   set the system prompt
/model NAME    go on with another model
/clear         begin a new conversation
/bye           leave, as does Ctrl-D; Ctrl-C ends an answer
\"""           begins and ends a message of several lines"""


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="By default the first.",
            autocompletion=complete_model,
            callback=require_name,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Print one answer, and end.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Path of an image.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats an answer.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Talk to a model: with the running server, or with one that is started for it."""
    from proxy.cli.running_server import any_server

    if model is not None and prompt is None and " " in model.strip():
        raise CommandError(
            f"'{model}' is not the name of a model: `tandem chat MODEL PROMPT` asks one.", 2
        )
    settings = read_settings(config)
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if as_json and prompt is None and is_terminal:
        raise CommandError("--json prints one answer: give a prompt.", 2)
    options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    if not is_terminal:
        prompt = with_stdin(prompt, sys.stdin)
    if prompt is not None and not prompt.strip():
        raise CommandError("The prompt is empty: give one as an argument, or through a pipe.", 2)
    with any_server(settings, url, config) as server:
        talk = Conversation(model or _first_model(server), system, options)
        for path in image or ():
            talk.add_image(path)
        if prompt is not None:
            _answer_once(server, talk, prompt, as_json)
        else:
            _Repl(server, talk).run()


def with_stdin(prompt: str | None, stdin: TextIO | None, seconds: float = _STDIN_SECONDS) -> str:
    """Return what `stdin` has, and `prompt` after it, in the order of `ollama run`.

    Bytes that are no text are refused where they are sent. A prompt waits at most `seconds` for
    the first data, because another program may hold the pipe open. Source: `RunHandler` of
    Ollama's cmd/cmd.go.
    """
    if stdin is None:  # It was closed, as by `<&-`.
        return prompt or ""
    if prompt is not None and not _is_readable(stdin, seconds):
        print(
            f"tandem: nothing came through stdin within {seconds:g} s: the prompt goes "
            "without it. `< /dev/null` saves the wait.",
            file=sys.stderr,
        )
        return prompt
    if (reconfigure := getattr(stdin, "reconfigure", None)) is not None:
        reconfigure(errors="surrogateescape")
    text = stdin.read()
    return "\n".join(part for part in (text.removesuffix("\n"), prompt) if part)


def _is_readable(stream: TextIO, seconds: float) -> bool:
    """Wait until `stream` has data or its end; False if neither comes in time."""
    try:
        return bool(select.select([stream], [], [], seconds)[0])
    except (OSError, ValueError):  # It has no descriptor: a stream of this process.
        return True


def _first_model(server: "RunningServer") -> str:
    for card in server.get("/v1/models")["data"]:
        if "chat" in card["capabilities"]:
            return card["id"]
    raise CommandError("There is no model that chats: `tandem pull llama3.2:1b` gets one.")


def _answer_once(server: "RunningServer", talk: Conversation, prompt: str, as_json: bool) -> None:
    text, thoughts, usage = "", "", None
    for kind, piece in talk.ask(server, prompt):
        match kind:
            case "text":
                text += piece
                if not as_json:
                    print(piece, end="", flush=True)
            case "thoughts":
                thoughts += piece
            case _:
                usage = piece
    if as_json:
        print_json({"model": talk.model, "text": text, "reasoning": thoughts, "usage": usage})
    else:
        print()


class _Repl:
    """Reads messages and prints answers until the user leaves."""

    def __init__(self, server: "RunningServer", talk: Conversation) -> None:
        from rich.console import Console

        self._server = server
        self._talk = talk
        self._console = Console()

    def run(self) -> None:
        with suppress(ImportError):  # Python may be built without it: no history then.
            importlib.import_module("readline")
        self._console.print(self._talk.model, style="bold", markup=False, highlight=False)
        self._console.print("/help lists commands.", highlight=False)
        for message in _messages():
            try:
                self._take(message)
            except CommandError as exc:
                self._console.print(str(exc), style="red", markup=False, highlight=False)
            except KeyboardInterrupt:
                self._console.print("[dim](ended)[/dim]")

    def _take(self, message: str) -> None:
        command, _, rest = message.partition(" ")
        match command:
            case "/help" | "/?":
                self._console.print(_HELP, markup=False, highlight=False)
            case "/image" | "/model" if not rest.strip():
                raise CommandError(f"{command} needs a name after it: /help shows it.")
            case "/image":
                self._talk.add_image(Path(rest.strip()).expanduser())
                self._console.print("[dim]The image goes with the next message.[/dim]")
            case "/system":
                self._talk.system = rest or None
            case "/model":
                card = self._server.get(f"/v1/models/{to_segment(rest.strip())}")
                self._talk.model = card["id"]
            case "/clear":
                self._talk.clear()
            case _ if command.startswith("/") and "/" not in command[1:] and "." not in command:
                raise CommandError(f"There is no command {command}: /help lists them.")
            case _:
                self._print(self._talk.ask(self._server, message))

    def _print(self, pieces: Iterator[Piece]) -> None:
        """Print thoughts and text as they come, and the usage."""
        from rich.live import Live

        from proxy.cli.growing_answer import GrowingAnswer

        usage = None
        with Live(console=self._console) as live:
            answer = GrowingAnswer(live)
            for kind, piece in pieces:
                if kind == "usage":
                    usage = piece
                else:
                    answer.add(kind, piece)
        _print_usage(self._console, usage)


def _print_usage(console: "Console", usage: dict[str, Any] | None) -> None:
    if usage is not None:
        counts = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
        speed = usage.get("speed")
        rate = f", {speed:.0f} tokens/s" if speed else ""
        console.print(f"[dim]{counts}{rate}[/dim]", highlight=False)


def _messages() -> Iterator[str]:
    """Yield what the user types, until the end of input or `/bye`."""
    while True:
        try:
            text = input(">>> ")
            if text.startswith('"""'):
                text = _several_lines(text.removeprefix('"""'))
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/bye or Ctrl-D leaves)")
            continue
        if text.strip() in ("/bye", "/exit", "/quit"):
            return
        if text.strip():
            yield text.strip()


def _several_lines(first: str) -> str:
    lines = [first]
    while not lines[-1].endswith('"""'):
        lines.append(input("... "))
    lines[-1] = lines[-1].removesuffix('"""')
    return "\n".join(lines)
