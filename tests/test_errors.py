"""Errors: exit codes of their own, and alarms that cross process boundaries with their evidence."""

from __future__ import annotations

import pickle

from codesign import errors


def test_every_kind_of_ending_has_an_exit_code_of_its_own() -> None:
    kinds = (errors.CodesignError, errors.InputError, errors.MissingToolError, errors.SoundnessAlarm)
    codes = [kind.exit_code for kind in kinds] + [errors.INTERNAL_ERROR, errors.INTERRUPTED]
    assert codes == [1, 2, 3, 4, 5, 130]


def test_an_alarm_keeps_its_evidence_across_processes() -> None:
    alarm = pickle.loads(pickle.dumps(errors.SoundnessAlarm("region 3 is exceeded", {"input": [1.0]})))
    assert str(alarm) == "region 3 is exceeded"
    assert alarm.evidence == {"input": [1.0]}
