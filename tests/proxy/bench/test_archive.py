"""Archive of benchmark results: writing, reading, and unreadable files."""

import json
from pathlib import Path

import pytest
from fakes.bench_results import MLX, OLLAMA, bench_result
from msgspec.structs import replace

from proxy.bench.archive import Archive, stem


def test_results_are_read_newest_first(tmp_path: Path):
    archive = Archive(tmp_path)
    old, new = bench_result(model="a", measured_at=1), bench_result(model="b", measured_at=2)
    for result in (new, old):
        archive.save(result)
    assert archive.results() == [new, old]


def test_later_run_replaces_the_earlier_one(tmp_path: Path):
    archive = Archive(tmp_path)
    paths = {archive.save(bench_result(measured_at=moment)) for moment in (1, 2)}
    assert len(paths) == 1
    assert [result.measured_at for result in archive.results()] == [2]


def test_other_weights_have_a_file_of_their_own(tmp_path: Path):
    archive = Archive(tmp_path)
    archive.save(bench_result())
    archive.save(bench_result(contestants=(MLX, replace(OLLAMA, digest="d2"))))
    assert len(archive.results()) == 2


def test_missing_folder_has_no_results(tmp_path: Path):
    assert Archive(tmp_path / "nowhere").results() == []


@pytest.mark.parametrize(
    "broken", [b"", b"{", b'{"format": 1}', b'{"format": 1, "result": {}}', b"\xff"]
)
def test_broken_file_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes
):
    archive = Archive(tmp_path)
    path = archive.save(bench_result())
    path.with_name("broken.json").write_bytes(broken)
    assert archive.results() == [bench_result()]
    assert archive.results() == [bench_result()]
    assert caplog.text.count("broken.json is ignored") == 1


def test_file_of_another_format_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    archive = Archive(tmp_path)
    path = archive.save(bench_result())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    assert archive.results() == []
    assert "format 2 is not supported, only 1" in caplog.text


def test_failed_write_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive = Archive(tmp_path)
    archive.save(bench_result())

    def write_part(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_part)
    with pytest.raises(OSError, match="No space"):
        archive.save(bench_result(measured_at=2))
    assert [result.measured_at for result in archive.results()] == [1000]


@pytest.mark.parametrize("model", ["../../etc/passwd", "a/b:c", "~", "x" * 300, "größer 模型"])
def test_model_name_never_becomes_a_path(tmp_path: Path, model: str):
    result = bench_result(model=model)
    assert Archive(tmp_path).save(result).parent == tmp_path / "benchmarks"
    assert len(stem(result)) < 100
