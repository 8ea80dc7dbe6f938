"""The converter on small files of every type, and on the bundled model."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from fakes.tiny_gguf import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    SHAPES,
    VOCABULARY,
    WIDTH,
    Data,
    Metadata,
    Tensors,
    quantised,
    tiny_gguf,
    tiny_metadata,
    tiny_tensors,
    write_gguf,
)
from gguf import GGMLQuantizationType as GGML
from gguf import GGUFReader
from safetensors.numpy import load_file

from adapters.gguf.conversion import UNWRITABLE
from adapters.gguf.tokenizer import build_tokenizer, end_tokens
from adapters.mlx.gguf import InexactGGUFError, UnsupportedGGUFError, convert, packing, weights
from adapters.mlx.gguf.weights import Plan, write_weights

pytestmark = pytest.mark.long

EXACT = {GGML.Q4_0: 4, GGML.Q4_1: 4, GGML.Q5_0: 5, GGML.Q5_1: 5, GGML.Q8_0: 8}
ROUNDED = {GGML.Q4_K: 4, GGML.Q5_K: 5}


def quiet(done: int, total: int) -> None:
    pass


def never(done: int, total: int) -> None:
    pytest.fail("converted again")


def split_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's order of a head's rows -> MLX's, row by row: pair p is rows 2p and 2p + 1."""
    half = HEAD_DIM // 2
    order = [
        head * HEAD_DIM + 2 * pair + side
        for head in range(heads)
        for side in (0, 1)
        for pair in range(half)
    ]
    return rows[order]


def expected_weight(tensors: Tensors, name: str) -> np.ndarray:
    values = gguf.dequantize(*tensors[name])
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
    return split_pairs(values, heads) if heads else values


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def mlx_dequantize(stored: dict[str, np.ndarray], module: str, bits: int) -> np.ndarray:
    import mlx.core as mx

    arrays = [mx.array(stored[f"{module}.{part}"]) for part in ("weight", "scales", "biases")]
    arrays[1:] = [array.astype(mx.float32) for array in arrays[1:]]
    return np.array(mx.dequantize(*arrays, group_size=32, bits=bits))


MODULES = {
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj",
    "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj",
    "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj",
    "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj",
    "token_embd.weight": "model.embed_tokens",
}


@pytest.mark.parametrize("kind", [*EXACT, *ROUNDED], ids=lambda kind: kind.name)
def test_convert_gives_mlx_the_weights_of_the_source_when_the_type_packs(
    tmp_path: Path, kind: GGML
) -> None:
    bits, allowed = (EXACT | ROUNDED)[kind], 4e-4 if kind in ROUNDED else 1e-6
    report = convert(tiny_gguf(tmp_path, kind), tmp_path / "out", quiet)

    stored = load_file(tmp_path / "out" / "model.safetensors")
    tensors = tiny_tensors(kind)
    for name, module in MODULES.items():
        actual = mlx_dequantize(stored, module, bits)
        assert relative(actual, expected_weight(tensors, name)) <= allowed, name
    packed = [tensor for tensor in report.tensors if tensor.source == kind.name]
    assert len(packed) == len(MODULES)
    assert all(tensor.stored == f"{bits}-bit groups of 32" for tensor in packed)
    if kind in EXACT:
        assert {tensor.relative_l2 for tensor in packed} == {0.0}


@pytest.mark.parametrize(
    ("kind", "dtype"), [(GGML.F32, np.float32), (GGML.F16, np.float16), (GGML.Q6_K, np.float16)]
)
def test_convert_stores_floats_when_the_type_does_not_pack(
    tmp_path: Path, kind: GGML, dtype: type
) -> None:
    convert(tiny_gguf(tmp_path, kind), tmp_path / "out", quiet)

    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, module in MODULES.items():
        expected = expected_weight(tiny_tensors(kind), name)
        assert stored[f"{module}.weight"].dtype == dtype
        assert np.array_equal(stored[f"{module}.weight"], expected.astype(dtype)), name
    assert "quantization" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_convert_keeps_bfloat16_when_the_source_has_it(tmp_path: Path) -> None:
    import mlx.core as mx

    convert(tiny_gguf(tmp_path, GGML.BF16), tmp_path / "out", quiet)

    stored: Any = mx.load(str(tmp_path / "out" / "model.safetensors"))
    weight = stored["model.layers.0.self_attn.v_proj.weight"]
    assert weight.dtype == mx.bfloat16
    expected = expected_weight(tiny_tensors(GGML.BF16), "blk.0.attn_v.weight")
    assert np.array_equal(np.array(weight.astype(mx.float32)), expected)


def test_convert_keeps_a_norm_in_float32_when_float16_cannot_hold_it(tmp_path: Path) -> None:
    tiny = (np.full(WIDTH, 1e-9, np.float32), GGML.F32)
    source = tiny_gguf(tmp_path, changed={"output_norm.weight": tiny})
    convert(source, tmp_path / "out", quiet)

    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.norm.weight"].dtype == np.float32
    assert stored["model.layers.0.input_layernorm.weight"].dtype == np.float16


def test_convert_writes_the_same_when_a_tensor_has_many_chunks(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path, GGML.Q5_1)
    convert(source, tmp_path / "one", quiet)
    convert(source, tmp_path / "many", quiet, chunk=7 * WIDTH)

    one, many = (tmp_path / name / "model.safetensors" for name in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()


def test_convert_names_the_modules_of_another_width_in_config(tmp_path: Path) -> None:
    embedding = quantised((VOCABULARY, WIDTH), GGML.Q8_0)
    down = quantised(SHAPES["ffn_down"], GGML.Q6_K)
    source = tiny_gguf(
        tmp_path, changed={"token_embd.weight": embedding, "blk.0.ffn_down.weight": down}
    )
    convert(source, tmp_path / "out", quiet)

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }
    assert config["tie_word_embeddings"] is True
    assert load_and_run(tmp_path / "out") == (1, 3, VOCABULARY)


def test_convert_makes_an_untied_model_when_the_source_has_an_output(tmp_path: Path) -> None:
    output = quantised((VOCABULARY, WIDTH), GGML.Q5_0)
    convert(tiny_gguf(tmp_path, changed={"output.weight": output}), tmp_path / "out", quiet)

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["quantization"]["lm_head"] == {"group_size": 32, "bits": 5}
    assert load_and_run(tmp_path / "out") == (1, 3, VOCABULARY)


def load_and_run(folder: Path) -> tuple[int, ...]:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    return model(mx.array([[4, 5, 6]])).shape


def llama3_factors() -> np.ndarray:
    """The factors that mlx-lm computes for Llama 3.2."""
    from mlx_lm.models.rope_utils import Llama3RoPE

    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    rope = Llama3RoPE(HEAD_DIM, base=10000.0, scaling_config=scaling)
    plain = 10000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return (np.array(rope._freqs) / plain).astype(np.float32)


def test_convert_recovers_llama3_scaling_when_the_source_has_its_table(tmp_path: Path) -> None:
    factors = llama3_factors()
    assert factors.min() < 1.001 < 2 < factors.max()
    convert(
        tiny_gguf(tmp_path, changed={"rope_freqs.weight": (factors, GGML.F32)}),
        tmp_path / "out",
        quiet,
    )

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": pytest.approx(32.0, rel=1e-5),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_convert_keeps_linear_scaling(tmp_path: Path) -> None:
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    source = write_gguf(tmp_path / "a.gguf", tiny_tensors(GGML.Q4_0), tiny_metadata() | linear)
    convert(source, tmp_path / "out", quiet)

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


NO_SUCH = np.zeros((WIDTH, WIDTH), np.float32)
REFUSED_METADATA: list[tuple[Metadata, str]] = [
    ({"tokenizer.ggml.pre": "quux"}, "'quux'"),
    ({"tokenizer.ggml.model": "bert"}, "'bert'"),
    ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores"),
    ({"tokenizer.ggml.add_eos_token": True}, "add_eos_token"),
    ({"tokenizer.ggml.merges": ["h z"]}, "'h', 'z'"),
    ({"tokenizer.ggml.token_type": [1, 1]}, "token_type"),
    ({"tokenizer.ggml.tokens": ["a"] * 3}, "same text"),
    ({"tokenizer.ggml.tokens": [str(n) for n in range(VOCABULARY + 1)]}, "265 tokens"),
    ({"tokenizer.ggml.eos_token_id": 9999}, "9999"),
    ({"llama.expert_count": 8}, "ffn_down_exps"),
    ({"llama.logit_scale": 2.0}, "logit_scale"),
    ({"llama.rope.scaling.type": "longrope"}, "longrope"),
    ({"llama.rope.dimension_count": 32}, "rope.dimension_count"),
    ({"llama.attention.head_count_kv": [2, 4]}, "head_count_kv"),
    ({"split.count": 3}, "several"),
]
REFUSED_TENSORS: list[tuple[str, Data, str]] = [
    ("blk.0.ffn_gate_exps.weight", (NO_SUCH, GGML.F32), "ffn_gate_exps"),
    ("blk.0.attn_q.bias", (NO_SUCH[0], GGML.F32), "attn_q.bias"),
    ("blk.1.attn_q.weight", (NO_SUCH, GGML.F32), "blk.1.attn_q"),
    ("blk.0.attn_v.weight", quantised(SHAPES["attn_v"], GGML.Q2_K), "Q2_K of 'blk.0.attn_v"),
    ("rope_freqs.weight", (np.ones(32, np.float32) * 3, GGML.F32), "rope_freqs"),
]


@pytest.mark.parametrize(("change", "named"), REFUSED_METADATA)
def test_convert_rejects_by_name_when_metadata_is_not_supported(
    tmp_path: Path, change: Metadata, named: str
) -> None:
    source = write_gguf(tmp_path / "a.gguf", tiny_tensors(GGML.Q4_0), tiny_metadata() | change)
    with pytest.raises(UnsupportedGGUFError, match=named):
        convert(source, tmp_path / "out", quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "a.gguf"]


@pytest.mark.parametrize(("name", "data", "named"), REFUSED_TENSORS)
def test_convert_rejects_by_name_when_a_tensor_is_not_supported(
    tmp_path: Path, name: str, data: Data, named: str
) -> None:
    with pytest.raises(UnsupportedGGUFError, match=named):
        convert(tiny_gguf(tmp_path, changed={name: data}), tmp_path / "out", quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "tiny.gguf"]


def test_convert_rejects_when_a_tensor_is_missing(tmp_path: Path) -> None:
    tensors = tiny_tensors(GGML.Q4_0)
    del tensors["blk.0.ffn_up.weight"]
    source = write_gguf(tmp_path / "a.gguf", tensors, tiny_metadata())
    with pytest.raises(UnsupportedGGUFError, match=r"blk\.0\.ffn_up\.weight"):
        convert(source, tmp_path / "out", quiet)


def test_convert_rejects_when_rows_are_not_a_multiple_of_the_head_size(tmp_path: Path) -> None:
    keys = quantised((KV_HEADS * HEAD_DIM - 8, WIDTH), GGML.Q4_1)
    with pytest.raises(UnsupportedGGUFError, match="120 rows of 'attn_k'"):
        convert(tiny_gguf(tmp_path, changed={"blk.0.attn_k.weight": keys}), tmp_path / "out", quiet)


def test_convert_rejects_by_name_when_the_architecture_is_not_supported(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "a.gguf", {}, {}, architecture="mamba")
    with pytest.raises(UnsupportedGGUFError, match="'mamba'"):
        convert(source, tmp_path / "out", quiet)


@pytest.mark.parametrize("kept", [0, 3, 100, 5000, -100])
def test_convert_rejects_when_the_file_is_truncated(tmp_path: Path, kept: int) -> None:
    content = tiny_gguf(tmp_path).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:kept])
    with pytest.raises(UnsupportedGGUFError, match=r"cut\.gguf"):
        convert(tmp_path / "cut.gguf", tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_convert_rejects_when_the_file_is_not_a_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"not a model" * 1000)
    with pytest.raises(UnsupportedGGUFError, match=r"a\.gguf"):
        convert(tmp_path / "a.gguf", tmp_path / "out", quiet)


def test_a_written_tensor_that_differs_is_refused(tmp_path: Path) -> None:
    right = packing.PACKED[GGML.Q4_1]

    def swapped(raw: packing.Bytes) -> packing.Affine:
        codes, scales, biases = right.split(raw)
        return codes[:, ::-1], scales, biases

    tensors = {tensor.name: tensor for tensor in GGUFReader(tiny_gguf(tmp_path)).tensors}
    plan = Plan(tensors["blk.0.attn_q.weight"], "q_proj", replace(right, split=swapped))
    with pytest.raises(InexactGGUFError, match=r"'blk\.0\.attn_q\.weight' \(Q4_1\)"):
        write_weights(tmp_path / "model.safetensors", [plan], quiet)


def test_convert_leaves_nothing_when_a_scale_is_nan(tmp_path: Path) -> None:
    data, kind = quantised(SHAPES["ffn_up"], GGML.Q8_0)
    data[0, 0:2] = [0, 0x7E]  # NaN
    with pytest.raises(InexactGGUFError, match="ffn_up"):
        convert(
            tiny_gguf(tmp_path, changed={"blk.0.ffn_up.weight": (data, kind)}),
            tmp_path / "out",
            quiet,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "tiny.gguf"]


def test_convert_can_be_retried_when_the_disk_was_full(tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        if done:
            raise OSError(28, "No space left on device")

    source = tiny_gguf(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        convert(source, tmp_path / "out", full)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "tiny.gguf"]
    assert convert(source, tmp_path / "out", quiet).worst.relative_l2 <= weights.GATE


@pytest.mark.process
@pytest.mark.parametrize("most_bytes", [0, 1_000, 20_000])
def test_disk_that_is_full_at_any_file_is_told_by_the_exit_status(
    tmp_path: Path, most_bytes: int
) -> None:
    """A limit of the size of files stands in for a full disk: it is met as one."""
    source, target = tiny_gguf(tmp_path), tmp_path / "out"
    converter = subprocess.run(
        [sys.executable, "-m", "adapters.mlx.gguf", source, target],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    assert (converter.returncode, converter.stdout) == (UNWRITABLE, b"File too large\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "tiny.gguf"]


KILLED = """
import os, sys
from pathlib import Path
from adapters.mlx.gguf import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), lambda done, total: done and os.kill(os.getpid(), 9))
"""


@pytest.mark.process
def test_convert_starts_again_when_an_earlier_process_was_killed(tmp_path: Path) -> None:
    source, target = tiny_gguf(tmp_path), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, source, target], check=False)
    assert killed.returncode == -9
    assert (tmp_path / ".out.partial" / "model.safetensors").exists()
    assert not target.exists()

    convert(source, target, quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out", "tiny.gguf"]


HELD = """
import sys
from pathlib import Path
from adapters.mlx.gguf import convert
def wait(done, total):
    if not done:
        print("converting", flush=True)
        sys.stdin.readline()
convert(Path(sys.argv[1]), Path(sys.argv[2]), wait)
"""


def start(*command: str | Path) -> Any:
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.process
def test_convert_waits_when_another_process_converts(tmp_path: Path) -> None:
    files = tiny_gguf(tmp_path), tmp_path / "out"
    with start("-c", HELD, *files) as first:
        assert first.stdout.readline() == "converting\n"
        with start("-m", "adapters.mlx.gguf", *files) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=1.5)
            first.communicate("\n")
            outputs, progress = second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert "11 tensors" in outputs
    assert progress == ""


@pytest.mark.process
def test_convert_runs_once_when_several_processes_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "adapters.mlx.gguf", tiny_gguf(tmp_path), tmp_path / "out"]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [child.communicate() for child in children]

    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert sum("100%" in progress for _, progress in outputs) == 1
    assert {line.split(": ")[1] for line, _ in outputs} == {outputs[0][0].split(": ")[1]}
    assert load_and_run(tmp_path / "out") == (1, 3, VOCABULARY)


def test_convert_returns_the_first_report_when_it_was_done_before(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path)
    first = convert(source, tmp_path / "out", quiet)
    assert convert(source, tmp_path / "out", never) == first


def test_convert_records_the_digest_of_the_source(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    report = convert(source, tmp_path / "out", quiet)
    assert report.origin == f"sha256:{digest}"
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["origin"] == report.origin


def test_convert_takes_the_digest_from_the_name_of_a_blob(tmp_path: Path) -> None:
    blob = tiny_gguf(tmp_path).rename(tmp_path / f"sha256-{'5' * 64}")
    assert convert(blob, tmp_path / "out", quiet).origin == f"sha256:{'5' * 64}"


def test_convert_rejects_a_folder_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not made by this converter"):
        convert(tiny_gguf(tmp_path), tmp_path / "out", quiet)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_convert_makes_a_damaged_folder_anew(tmp_path: Path) -> None:
    source, target = tiny_gguf(tmp_path), tmp_path / "out"
    report = convert(source, target, quiet)
    assert sorted(report.files) == sorted(
        path.name for path in target.iterdir() if path.name != "conversion.json"
    )
    weights = target / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert convert(source, target, quiet) == report
    assert weights.read_bytes() == whole
    (target / "conversion.json").unlink()
    with pytest.raises(FileExistsError):
        convert(source, target, quiet)
    assert convert(source, target, quiet, owned=True) == report


def test_convert_rejects_a_folder_of_another_source(tmp_path: Path) -> None:
    convert(tiny_gguf(tmp_path), tmp_path / "out", quiet)
    other = write_gguf(tmp_path / "other.gguf", tiny_tensors(GGML.Q8_0), tiny_metadata())
    with pytest.raises(FileExistsError, match=r"tiny\.gguf"):
        convert(other, tmp_path / "out", quiet)


def test_convert_reports_progress_from_zero_to_the_size(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(tiny_gguf(tmp_path), tmp_path / "out", lambda *step: seen.append(step))

    size = sum(data.nbytes for data, _ in tiny_tensors(GGML.Q4_1).values())
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def run_converter(source: Path, target: Path, stderr: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "adapters.mlx.gguf", str(source), str(target)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)


@pytest.mark.process
def test_main_prints_a_few_lines_of_progress_when_not_on_a_terminal(tmp_path: Path) -> None:
    ran = run_converter(tiny_gguf(tmp_path), tmp_path / "out", subprocess.PIPE)

    assert ran.returncode == 0
    assert "11 tensors" in ran.stdout
    lines = ran.stderr.splitlines()
    assert 2 <= len(lines) <= 5
    assert "  0%" in lines[0]
    assert "100%" in lines[-1]
    assert "\r" not in ran.stderr


@pytest.mark.process
def test_main_redraws_one_line_when_on_a_terminal(tmp_path: Path) -> None:
    screen, terminal = os.openpty()
    ran = run_converter(tiny_gguf(tmp_path), tmp_path / "out", terminal)
    os.close(terminal)
    drawn = os.read(screen, 65536)
    os.close(screen)

    assert ran.returncode == 0
    assert drawn.count(b"\n") == 1
    assert drawn.count(b"% ") == drawn.count(b"\r") > 5


@pytest.mark.process
def test_main_prints_the_reason_when_the_file_is_rejected(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "a.gguf", {}, {}, architecture="mamba")
    ran = run_converter(source, tmp_path / "out", subprocess.PIPE)

    assert ran.returncode == 1
    assert ran.stdout.startswith("a.gguf: The architecture 'mamba' is not supported")
    assert "Traceback" not in ran.stderr


@pytest.mark.process
def test_main_prints_the_reason_when_the_file_is_missing(tmp_path: Path) -> None:
    ran = run_converter(tmp_path / "none.gguf", tmp_path / "out", subprocess.PIPE)

    assert ran.returncode == 1
    assert "No such file" in ran.stdout


def test_tokenizer_adds_bos_when_the_file_sets_it() -> None:
    metadata = tiny_metadata()
    hello = metadata["tokenizer.ggml.tokens"].index("hello")
    assert build_tokenizer(metadata).encode("hello").ids == [hello]
    metadata["tokenizer.ggml.add_bos_token"] = True
    assert build_tokenizer(metadata).encode("hello").ids == [1, hello]


@pytest.mark.parametrize(("pre", "ids"), [("llama-bpe", [264]), ("smollm", [93, 93])])
def test_tokenizer_ignores_merges_for_words_that_are_tokens(pre: str, ids: list[int]) -> None:
    metadata = tiny_metadata() | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    metadata["tokenizer.ggml.tokens"] += ["zz"]  # no merge leads to it
    metadata["tokenizer.ggml.token_type"] += [1]
    assert build_tokenizer(metadata).encode("zz").ids == ids


def test_tokenizer_finds_user_defined_tokens_that_are_not_special() -> None:
    tokenizer = build_tokenizer(tiny_metadata())
    ids = tokenizer.encode("<user>hello<|im_end|>").ids
    assert ids[0] == 3
    assert ids[-1] == 2
    assert tokenizer.decode(ids) == "<user>hello"


def test_end_tokens_are_those_of_the_file_and_known_control_tokens() -> None:
    assert end_tokens(tiny_metadata()) == [2, 0]
    metadata = tiny_metadata() | {"tokenizer.ggml.eot_token_id": 3}
    assert end_tokens(metadata) == [2, 3, 0]


def test_known_end_token_ends_answers_when_the_file_calls_it_user_defined() -> None:
    metadata = tiny_metadata()
    metadata["tokenizer.ggml.tokens"][3] = "<|tool_response>"
    assert end_tokens(metadata) == [2, 0, 3]


DATA = Path(__file__).parents[3] / "data"
Record = dict[str, Any]


@pytest.fixture(scope="module")
def smollm2_metadata(smollm2_gguf: Path) -> Metadata:
    fields = gguf.GGUFReader(smollm2_gguf).fields
    return {key: field.contents() for key, field in fields.items()}


@pytest.fixture(scope="module")
def smollm2_record() -> Record:
    return json.loads((DATA / "smollm2-token-ids.json").read_text("utf-8"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("pre", "file"),
    [
        ("smollm", "smollm2"),
        ("gpt-2", "gpt-2"),
        ("llama-bpe", "llama-bpe"),
    ],
)
@pytest.mark.slow
def test_tokenizer_gives_llama_cpps_ids(smollm2_metadata: Metadata, pre: str, file: str) -> None:
    texts = json.loads((DATA / f"{file}-token-ids.json").read_text("utf-8"))["texts"]
    tokenizer = build_tokenizer(smollm2_metadata | {"tokenizer.ggml.pre": pre})

    assert len(texts) >= 60
    assert [ids_of(tokenizer, row["text"]) for row in texts] == [row["ids"] for row in texts]


@pytest.fixture(scope="module")
def word_cuts() -> Record:
    """A vocabulary with merges across words, digits and capitals: all splits are visible."""
    return json.loads((DATA / "word-cuts-token-ids.json").read_text("utf-8"))


# Names in a GGUF, each with the recorded name for which llama-server gave the same ids.
SAME_SPLITS = {
    **dict.fromkeys(("gpt-2", "olmo"), "gpt-2"),
    **dict.fromkeys(("smollm", "refact", "command-r", "starcoder"), "smollm"),
    **dict.fromkeys(("llama-bpe", "lfm2", "falcon3", "pixtral"), "llama-bpe"),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), "llama-bpe"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), "qwen2"),
    **dict.fromkeys(("gpt-4o", "llama4"), "gpt-4o"),
    **{name: name for name in ("qwen35", "seed-coder", "tekken")},
    **{name: name for name in ("deepseek-llm", "deepseek-coder", "deepseek-v3")},
}


@pytest.mark.parametrize("pre", SAME_SPLITS)
def test_tokenizer_splits_words_like_llama_cpp(word_cuts: Record, pre: str) -> None:
    words = {"model": "gpt2", "pre": pre, "add_bos_token": False}
    words |= {key: word_cuts[key] for key in ("tokens", "merges")}
    tokenizer = build_tokenizer({f"tokenizer.ggml.{key}": value for key, value in words.items()})
    ids = [ids_of(tokenizer, text) for text in word_cuts["texts"]]
    assert len(ids) == 76
    assert ids == word_cuts["ids"][SAME_SPLITS[pre]]


def test_recorded_ids_distinguish_the_pre_tokenizers(word_cuts: Record) -> None:
    assert len({json.dumps(ids) for ids in word_cuts["ids"].values()}) == len(word_cuts["ids"])


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_mlx_lm_renders_and_tokenizes_chats_like_llama_cpp(
    smollm2_folder: Path, smollm2_record: Record
) -> None:
    tokenizer = load_tokenizer(smollm2_folder)

    assert len(smollm2_record["chats"]) >= 6
    for chat in smollm2_record["chats"]:
        messages = chat["messages"]
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert rendered == chat["prompt"]
        assert ids == chat["ids"]


def test_mlx_lm_tokenizes_and_restores_texts_like_llama_cpp(
    smollm2_folder: Path, smollm2_record: Record
) -> None:
    tokenizer = load_tokenizer(smollm2_folder)

    for row in smollm2_record["texts"]:
        assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids"]
        assert tokenizer.decode(row["ids"]) == row["text"]


def load_tokenizer(folder: Path) -> Any:
    from mlx_lm.utils import load_tokenizer

    return load_tokenizer(folder)


def test_bundled_model_is_identical_to_the_last_bit(smollm2_folder: Path) -> None:
    report = json.loads((smollm2_folder / "conversion.json").read_text())

    assert len(report["tensors"]) == 272
    assert max(tensor["relative_l2"] for tensor in report["tensors"]) == 0.0
    assert {(tensor["source"], tensor["stored"]) for tensor in report["tensors"]} == {
        ("Q4_1", "4-bit groups of 32"),
        ("Q8_0", "8-bit groups of 32"),
        ("F32", "float16"),
    }


def test_bundled_model_answers_paris(smollm2_folder: Path) -> None:
    import mlx.core as mx
    from mlx_lm import generate
    from mlx_lm.utils import dequantize_model, load_model

    model, config = load_model(smollm2_folder)
    # Packed and in float16, a CPU takes minutes for this answer.
    model = dequantize_model(model)
    model.set_dtype(mx.float32)
    tokenizer = load_tokenizer(smollm2_folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)

    assert config["eos_token_id"] == [2, 0]
    assert "Paris" in generate(model, tokenizer, prompt, max_tokens=10)
