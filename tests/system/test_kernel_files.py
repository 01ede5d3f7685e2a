"""The names of files of machine code, and how long they stay."""

import os
from pathlib import Path

import numba
import pytest

import softmaxloss
from softmaxloss.kernels.machine import compilation

KERNELS = Path(softmaxloss.__file__).parent / "kernels"


def test_machine_code_of_sources_that_changed_long_ago_is_removed(tmp_path):
    files, source = compilation._Files(tmp_path, tmp_path / "cache", "kernel"), tmp_path / "step.py"
    files.folder.mkdir()
    foreign = files.folder / "foreign.1.py311.1.nbc"
    foreign.touch()
    os.utime(foreign, (0, 0))
    for version in "first", "second", "third":
        source.write_text(version)
        compilation._source_stamp.cache_clear()
        assert files.load(1) is None
        files.save(1, version)
        files.save(2, version)
        assert [files.load(key) for key in (1, 2)] == [version, version]
        if version == "first":
            for file in files.folder.iterdir():
                os.utime(file, (0, 0))
    assert len(list(files.folder.iterdir())) == 5
    assert foreign.exists()


@pytest.mark.parametrize("setting", ["OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT"])
def test_machine_code_of_other_settings_of_numba_is_in_another_file(setting, monkeypatch):
    files = compilation._Files(KERNELS, KERNELS, "kernel")
    before = files._file("key")
    monkeypatch.setattr(numba.config, setting, 1 - bool(getattr(numba.config, setting)))
    assert files._file("key") != before
