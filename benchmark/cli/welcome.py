"""Screen of a bare `synrep`: the three ways to start."""

from benchmark import __version__

WELCOME = f"""\
SynRep-Bench {__version__}: what are synthetic images worth for learning to see?

You want a dataset. Download a published one and verify its images.
  synrep data download ORG/NAME --revision COMMIT
  synrep data check data/ORG/NAME

You have a model. Evaluate it, and raw pixels, which need no download.
  synrep evaluate pixels --datasets digits
  synrep evaluate timm:resnet50.a1_in1k --datasets digits
  synrep tables --records runs/records --out runs/tables

You want the numbers. In a checkout, verify the records and compare two models.
  synrep validate results
  synrep compare main-smoke-scenes-1x/simclr-syn pretrained/pixels-16
  synrep site --out site

All commands: synrep --help. What this machine has and lacks: synrep doctor.
"""
"""Text of at most 80 columns."""
