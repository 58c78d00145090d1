"""How long work tells about itself: callbacks that its caller passes."""

from collections.abc import Callable

LogLine = Callable[[str], None]
"""Takes one line for the user."""
Progress = Callable[[int, int, str], None]
"""Takes how much is done, how much there is, and a note, which may be empty."""
NamedProgress = Callable[[str, int, int, str], None]
"""`Progress` of one of several pieces of work: takes its name first."""
