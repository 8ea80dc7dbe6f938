"""Failures and reports of `tandem import` and `tandem export`, and the names that both take."""

import errno
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.cli.command import CommandError
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.conversion.parity import Parity
    from adapters.gguf.conversion import TensorReport


@contextmanager
def conversion(source: str, interrupted: str) -> Generator[None]:
    """Run a conversion in its `with` block, and turn its failures into those of a command.

    Raises:
        CommandError: 1: the model `source` cannot be converted; 130, with the message
            `interrupted`: the user interrupted.
    """
    from adapters.errors import BackendError, BackendUnavailableError
    from adapters.gguf.conversion import InexactGGUFError, UnsupportedGGUFError

    try:
        yield
    except BackendUnavailableError as exc:
        raise CommandError(f"{source}: {exc} `tandem doctor` says what to do.") from exc
    except (BackendError, UnsupportedGGUFError, InexactGGUFError) as exc:
        raise CommandError(f"{source}: {exc}") from exc
    except FileExistsError as exc:
        raise CommandError(f"{source}: {exc} Remove it, or choose another with --to.") from exc
    except OSError as exc:
        reason = f"{source}: {exc.strerror or exc}"
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; nothing of it was kept. Free some of the disk and run the command again."
        raise CommandError(reason) from exc
    except KeyboardInterrupt as exc:
        raise CommandError(interrupted, 130) from exc


_LISTING_SECONDS = 2.0


async def name_on(kind: type, source: str, config: Config) -> str | None:
    """A backend's own name of the model called `source` by any of its names, as an alias.

    `kind` is the type of the backend's settings; None without such a model.
    """
    from adapters.errors import BackendError
    from proxy.models.registry import Registry
    from proxy.routing.lookup import ModelLookup

    configs = {
        name: backend
        for name, backend in config.backend_configs().items()
        if isinstance(backend, kind)
    }
    registry = Registry(config.models, config.server.refresh)
    async with registry.open(configs):
        await registry.refresh(_LISTING_SECONDS)
        try:
            entry = await ModelLookup(registry, None).find(source)
        except BackendError:  # A file, a folder, or no model at all.
            return None
        return entry.deployments[0].name


def tensor_lines(tensors: "Iterable[TensorReport]") -> Iterator[str]:
    """Render how tensors were stored: a summary, and a table by source type and stored type."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.source, tensor.stored].append(tensor.relative_l2)
    count = sum(map(len, groups.values()))
    same = sum(error == 0 for errors in groups.values() for error in errors)
    yield f"  {same} of {count} tensors equal those of the source bit for bit"
    yield ""
    yield f"  {'source':20} {'stored as':20} {'tensors':>7} {'exact':>6} {'worst':>8}"
    for (source, stored), errors in sorted(groups.items()):
        exact = sum(error == 0 for error in errors)
        yield f"  {source:20} {stored:20} {len(errors):7} {exact:6} {max(errors):8.1e}"


def prompt_lines(parity: "Parity") -> Iterator[str]:
    """Render how many prompts are the same on both engines, and the first that is not."""
    if parity.not_compared is not None:
        yield f"  prompts were not compared: {parity.not_compared}"
        return
    total = len(parity.prompts)
    same = sum(prompt.same_prompt is True for prompt in parity.prompts)
    ids = sum(prompt.same_ids is True for prompt in parity.prompts)
    yield f"  {ids} of {total} prompts have the same token ids on both engines"
    yield f"  {same} of {total} conversations render to the same prompt with both templates"
    different = [prompt for prompt in parity.prompts if prompt.same_prompt is False]
    for prompt in different[:1]:
        yield f"    MLX template:    {prompt.mlx!r}"
        yield f"    Ollama template: {prompt.ollama!r}"
