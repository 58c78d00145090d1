"""Real images of LAION that a user has downloaded, one per caption; see `real_images`."""

from datasets_scripts import laion_50m, real_images

SOURCE = real_images.source(laion_50m.SOURCE)
RECIPE = real_images.recipe("laion-50m-real", SOURCE)
