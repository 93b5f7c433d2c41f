"""Text from outside as it may be shown: on one line, in one direction, and without commands to a terminal."""

from __future__ import annotations

import re

_BLANK = re.compile("[\t-\r\x85\u2028\u2029]+")
_INVISIBLE = "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_COMMAND = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_INVISIBLE}]")


def printable(text: str) -> str:
    """`text` with a space for each line break or tab, and a question mark for what no reader sees but a terminal or
    an editor obeys.

    That are control characters, changes of the writing direction, and the bytes of a file name that are no characters
    (surrogates).
    """
    return _COMMAND.sub("?", _BLANK.sub(" ", text))
