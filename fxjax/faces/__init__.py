"""A face in its photo: found, and changed by moving the photo's own pixels."""
