"""Real images of RedCaps that a user has downloaded, one per caption; see `real_images`."""

from datasets_scripts import real_images, redcaps

SOURCE = real_images.source(redcaps.SOURCE)
RECIPE = real_images.recipe("redcaps-real", SOURCE)
