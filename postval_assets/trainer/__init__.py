"""What comes before postval: PPO on bars, training archives (``postval train``), the simulated market, the sample.

Nothing that validates imports this package; it may use ``core`` and ``io``, as any other producer of archives could.
"""
