"""Real images of CC12M that a user has downloaded, one per caption; see `real_images`."""

from datasets_scripts import cc12m, real_images

SOURCE = real_images.source(cc12m.SOURCE)
RECIPE = real_images.recipe("cc12m-real", SOURCE)
