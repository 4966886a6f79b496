"""Why deliveries fail, as people sort them: one table from the words of a reason to its cause and the advice for it.

A cause is a function of the reason alone, so that it can be told again for rows that were written before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Cause:
    """One kind of trouble."""

    name: str
    """As it stands in rows, filters and the API."""
    title: str
    advice: str
    """What a person does about it, in the order in which it is done."""
    pattern: str = ""
    """What the reasons of this cause say; empty: whatever no other cause claims."""


OTHER = Cause(
    "other",
    "Another reason",
    "Read the reason of one delivery, mend what it names, then retry.",
)
CAUSES = (
    Cause(
        "identity",
        "Patient of image and order differ",
        "Compare image and order; retry only what belongs to the patient, cancel what does not.",
        r"patient of the image is not the patient of its order",
    ),
    Cause(
        "unknown result",
        "May have happened",
        "Look there first whether it arrived: a retry could do it twice. Retry what is missing, cancel the rest.",
        r"May have happened|may have been printed",
    ),
    Cause(
        "retargeted",
        "Sent elsewhere",
        "Nothing is to be done here: it went to another destination.",
        r"Sent to .* instead",
    ),
    Cause(
        "not configured",
        "Destination not in the site file",
        "Put the destination back into the site file, or send its deliveries to another one.",
        r"not in the configuration",
    ),
    Cause(
        "called AE title",
        "Called AE title not recognised",
        "Compare called_ae_title here with the AE title the destination has for itself, then test and resume.",
        r"does not know the called AE title",
    ),
    Cause(
        "calling AE title",
        "Our AE title is not known there",
        "Have our AE title and address entered at the destination (see its contact), then test and resume.",
        r"does not know our calling AE title",
    ),
    Cause(
        "association limit",
        "Destination is busy",
        "It takes no more associations just now: it heals by itself. Lower concurrency here if it comes back.",
        r"is congested|limit of associations|rejected the association for now",
    ),
    Cause(
        "association rejected",
        "Association rejected",
        "The destination refuses to talk to us: give its team the result, source and reason beside the attempt.",
        r"rejected the association|association rejected|application context|protocol version",
    ),
    Cause(
        "certificate",
        "TLS or certificate",
        "Look at the certificates on both sides (expired, wrong name, unknown authority), replace, then test.",
        r"\bTLS\b|certificate",
    ),
    Cause(
        "not authorised",
        "Not authorised",
        "The destination knows us but does not let us: have the right granted there, then retry.",
        r"not authorised",
    ),
    Cause(
        "our file",
        "Our stored file cannot be read",
        "An image of ours is damaged or gone: look at our disk, ask the scanner to send it again.",
        r"stored file cannot be read",
    ),
    Cause(
        "SOP class",
        "Kind of object not supported",
        "The destination cannot take this kind of object: cancel, or send it to another destination.",
        r"SOP class not supported|support the SOP class|no such SOP class|unrecognized operation",
    ),
    Cause(
        "transfer syntax",
        "Compression not supported",
        "The destination cannot take this compression: allow another one for it here or there, then retry.",
        r"transfer syntax|presentation context",
    ),
    Cause(
        "destination full",
        "Destination is out of resources",
        "Its disk or database is full: tell its team. It is tried again by itself until then.",
        r"out of resources|resource limitation",
    ),
    Cause(
        "object refused",
        "Objects refused",
        "The destination will not take these objects as they are: its log says what it misses. Retrying alone does not help.",
        r"does not match (its|the) SOP class|cannot understand or process|invalid attribute|missing attribute"
        r"|no such attribute|invalid SOP instance|do not fit|mistyped|\bof \d+ refused|\d+ (not taken|not copied|not printed)"
        r"|contents already bear",
    ),
    Cause(
        "disk",
        "Folder or disk",
        "Make room, or give the broker the right to write in the folder; then resume.",
        r"folder cannot be written|MiB free|relative path leads out",
    ),
    Cause(
        "printer",
        "Printer or film",
        "Look at the printer (film, door, jam, its display), then retry.",
        r"printer|\bfilms?\b",
    ),
    Cause(
        "message refused",
        "Message refused",
        "The receiver read the message and refused it: give its team the code and text. Retrying alone does not help.",
        r"^(AE|CE|AR|CR)\b|message cannot be sent|acknowledgement code|no message to send",
    ),
    Cause(
        "timeout",
        "No answer in time",
        "The destination accepts but does not answer: look whether it hangs, then retry.",
        r"did not answer|not answered|no (answer|acknowledgement)|timed out|in time|does not answer",
    ),
    Cause(
        "unreachable",
        "Cannot be reached",
        "Look whether the destination runs and whether its host, port and firewall are right; then test and retry.",
        r"cannot be reached|[Cc]onnection refused|refused the connection|cannot connect|[Nn]o route|not known|unreachable",
    ),
    Cause(
        "connection lost",
        "Connection lost",
        "The connection broke half-way: look at the network and at the log of the destination; then retry.",
        r"connection was (lost|closed)|[Cc]onnection (lost|reset|closed)|aborted|closed the connection|broke",
    ),
    Cause(
        "processing failure",
        "Destination failed on it",
        "The destination says it failed inside: its log says why. Retry when its team has looked.",
        r"processing failure|unknown status|confirmed nothing|operation was cancelled",
    ),
    Cause(
        "internal",
        "Internal error",
        "A defect of the broker or of a plug-in: the log has it. Report it, then retry.",
        r"Internal error",
    ),
    Cause(
        "worker lost",
        "Worker was lost",
        "The process that sent it ended half-way; what was confirmed is kept. It goes on by itself.",
        r"worker is gone",
    ),
    OTHER,
)
BY_NAME = {cause.name: cause for cause in CAUSES}
_PATTERNS = tuple((cause, re.compile(cause.pattern)) for cause in CAUSES if cause.pattern)
_MAX_CHARS = 500


@lru_cache(maxsize=512)
def cause_of(reason: str) -> Cause:
    """Answer the cause a reason stands for."""
    text = reason[:_MAX_CHARS]
    return next((cause for cause, pattern in _PATTERNS if pattern.search(text)), OTHER)


def cause_named(name: str | None) -> Cause:
    """Answer the cause of a row; one that is not known is another one."""
    return BY_NAME.get(name or "", OTHER)
