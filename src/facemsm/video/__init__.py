"""Video: frames in and out, faces followed from one to the next."""
