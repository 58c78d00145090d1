"""Real images of CC3M that a user has downloaded, one per caption; see `real_images`."""

from datasets_scripts import cc3m, real_images

SOURCE = real_images.source(cc3m.SOURCE)
RECIPE = real_images.recipe("cc3m-real", SOURCE)
