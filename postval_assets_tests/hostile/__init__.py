"""Files made to do harm, run through the real intake under a canary.

Here: the cases, what notices harm, and a table of what became of each. Not here: files that are merely broken or
unusual (the tests of the rooms that read them).
"""
