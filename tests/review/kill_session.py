"""Answer images in processes that are killed at a step: `kill_session.py LAKE FOLDER STEPS`.

Each of `STEPS` processes works on a copy of the lake in `FOLDER/<step>`, and kills itself at one step of
the files that it writes. Confirmed answers are in `FOLDER/<step>.jsonl`. The processes are forked from
this one, which imports modules once.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from pipeline.review.applier import Applier
from pipeline.review.desk import ReviewDesk
from pipeline.review.queues import Queue
from tests.sigkill import run_killed
from transforms.lake.labels import answers_of
from transforms.lake.layout import Layout

CLIENT: Final = "0" * 32
STEPS_BETWEEN: Final = 7
"""Steps between two kills, so that they spread over a session."""


def review(lake: Path, confirmed: Path) -> None:
    """Answer about every image, undo every third answer, and apply after every second one."""
    layout = Layout(str(lake))
    desk = ReviewDesk(layout, below=0.8)
    applier = Applier(layout, desk.effective, interval=1000)
    applier.apply()
    with confirmed.open("a") as file:

        def confirm(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")
            file.flush()

        answers = answers_of(desk.labels)
        number = sum(1 for _ in confirmed.open())
        while row := desk.next(CLIENT, Queue.REVIEW):
            number += 1
            content, answer = str(row.content_sha256), answers[number % len(answers)]
            label = desk.answer("ann", content, answer, f"{os.getpid():08x}{number:024x}")
            applier.add(content)
            confirm(content=content, answer=answer, label_id=label.label_id)
            if number % 3 == 0:
                undone = desk.undo(CLIENT, "ann")
                applier.add(str(undone.content_sha256))
                confirm(content=undone.content_sha256, answer="undo", label_id=label.label_id)
            if number % 2 == 0:
                applier.apply()
    applier.apply()


def main(lake: Path, folder: Path, steps: int) -> None:
    """Run and kill the sessions; print how many were killed."""
    killed = 0
    for number in range(steps):
        copy, confirmed = folder / str(number), folder / f"{number}.jsonl"
        shutil.copytree(lake, copy)
        session = functools.partial(review, copy, confirmed)
        killed += run_killed(session, 1 + number * STEPS_BETWEEN)
    print(killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
