"""What comes before postval: simulated bars, networks fitted on them, and the training archive of both.

It makes the bundled sample (``python -m postval_assets.trainer.make_sample``). Nothing that validates imports
this package; it may use ``core`` and ``io``, as any other producer of archives could.
"""
