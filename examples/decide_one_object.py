"""Decide single objects, without Beam and without a lake; the model is loaded once.

Usage: decide_one_object.py [FILE ...]
"""

import sys
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file

from pipeline.api import Decider

paths = [Path(name) for name in sys.argv[1:] or [str(get_testdata_file("RG1_UNCR.dcm"))]]

with Decider() as decider:
    for path in paths:
        decision = decider.decide(path)
        print(f"{decision.status} to {decision.destination}: {decision.reason}")
        print(decision.explanation)
        for label, probability in (decision.probabilities or {}).items():
            print(f"  {label:<17}{probability:.4f}")

    # The same object from a socket, a queue or a database, and as a data set that was changed.
    of_bytes = decider.decide(paths[0].read_bytes())
    dataset = pydicom.dcmread(paths[0])
    dataset.BodyPartExamined = "HEAD"
    of_dataset = decider.decide(dataset)

print("bytes:", of_bytes.destination, of_bytes.row.header_agrees)
print("data set:", of_dataset.destination, of_dataset.row.header_agrees)
