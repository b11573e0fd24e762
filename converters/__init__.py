"""Converters of foreign weight files (StyleGAN1, StyleGAN2, VGG16) into Flax models."""
