"""From a text to whether it is negative, neutral or positive: everything that is trained and scored."""
