"""What became of a model, in lines: its tensors, and its prompts on both engines."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters.conversion.parity import Parity
    from adapters.gguf.conversion import TensorReport


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
