"""What `tandem import` and `tandem export` share: how each of them fails."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from proxy.cli.command import fail

if TYPE_CHECKING:
    from adapters.conversion.parity import Parity
    from adapters.gguf.report import TensorReport


def tell(source: str, stopped: str, work: Callable[[], None]) -> int:
    """0 once `work` is done; 1 if `source` cannot be carried over, and 130 if it was `stopped`."""
    from adapters.errors import BackendError
    from adapters.gguf.errors import InexactGGUFError, UnsupportedGGUFError

    try:
        work()
    except (BackendError, UnsupportedGGUFError, InexactGGUFError) as exc:
        return fail(1, f"{source}: {exc}")
    except OSError as exc:
        return fail(1, f"{source}: {exc.strerror or exc}")
    except KeyboardInterrupt:
        return fail(130, stopped)
    return 0


def tensor_lines(tensors: "Iterable[TensorReport]") -> Iterator[str]:
    """A line for each way in which tensors were stored."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.source, tensor.stored].append(tensor.relative_l2)
    count = sum(map(len, groups.values()))
    same = sum(error == 0 for errors in groups.values() for error in errors)
    yield f"  {same} of {count} tensors are the source's to the last bit"
    yield ""
    yield f"  {'source':20} {'stored as':20} {'tensors':>7} {'exact':>6} {'worst':>8}"
    for (source, stored), errors in sorted(groups.items()):
        exact = sum(error == 0 for error in errors)
        yield f"  {source:20} {stored:20} {len(errors):7} {exact:6} {max(errors):8.1e}"


def prompt_lines(parity: "Parity") -> Iterator[str]:
    if parity.not_compared is not None:
        yield f"  prompts were not compared: {parity.not_compared}"
        return
    total = len(parity.prompts)
    same = sum(prompt.same_prompt is True for prompt in parity.prompts)
    ids = sum(prompt.same_ids is True for prompt in parity.prompts)
    yield f"  {ids} of {total} prompts have the same token ids on both engines"
    yield f"  {same} of {total} conversations are the same prompt by both templates"
    different = [prompt for prompt in parity.prompts if prompt.same_prompt is False]
    for prompt in different[:1]:
        yield f"    by the folder's template: {prompt.mlx!r}"
        yield f"    by Ollama's template:     {prompt.ollama!r}"
