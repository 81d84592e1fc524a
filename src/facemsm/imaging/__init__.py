"""Photos: decoding, warping, drawing."""
