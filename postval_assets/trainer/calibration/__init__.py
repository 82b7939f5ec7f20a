"""`postval calibrate`: how often the policies are wrong, measured with models whose worth is known.

Here: markets and models of known worth, their judgement by the rules as they are, counts, and the page of them.
Not here: any rule: evaluation, statistics and decisions are core's.
"""
