"""The one error that a user of normc has to catch."""


class NormcError(Exception):
    """A mistake that the user can mend. Says what is wrong, on what, and (after `fix:`) what to do."""

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}\n  fix: {fix}" if fix else problem)
        self.problem = problem
        self.fix = fix


class NormcWarning(UserWarning):
    """Something that normc did differently from what was asked, said once."""
