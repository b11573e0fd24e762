"""Model families: one file each, over shared operations and layers."""
