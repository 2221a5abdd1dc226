"""One module, or one TFDS folder, a data set; this listing is the only register."""
