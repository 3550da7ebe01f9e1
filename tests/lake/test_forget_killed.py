"""SIGKILL to `forget --apply`: the next writer, or the same command, completes it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Lake, route_into
from tests.erasures import Hospital, content_of, files_with, hospital, identifiers
from transforms.lake.erase import list_erasure_intents
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

pytestmark = [pytest.mark.kill, pytest.mark.slow]

STEPS = tuple(map(str, range(4, 100, 12)))


def test_a_killed_erasure_is_completed(tmp_path_factory: pytest.TempPathFactory) -> None:
    treated = hospital(tmp_path_factory.mktemp("hospital"), images=1)
    names = identifiers(treated.lake)
    before = content_of(treated.lake)
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.lake.kill_forgets", str(treated.lake), str(folder)]
    done = subprocess.run(
        [*command, treated.patient_key, *STEPS], capture_output=True, text=True, check=True
    )
    killed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("killed")]
    assert len(killed) >= 6
    pending = 0
    for number, step in enumerate(killed):
        copy = Hospital(folder / step, treated.source, treated.key_file, treated.policy)
        layout = Layout(str(copy.lake))
        is_pending = bool(list_erasure_intents(layout))
        pending += is_pending
        assert verify_lake(layout).violations == []
        if is_pending and number % 2:
            route_into(Lake(copy.lake), *copy.options, inputs=(str(copy.source),))
        else:
            assert copy.apply() == 0
        assert not list_erasure_intents(layout)
        assert files_with(copy.lake, names) == []
        after = content_of(copy.lake)
        assert {n: v for n, v in after.items() if not n.startswith("runs/")} == {
            name: before[name] for name in after if not name.startswith("runs/")
        }
        assert verify_lake(layout, deep=True).violations == []
    assert pending
