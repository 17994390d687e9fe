"""Batched augmentation of uint8 images, drawn per sample on the host and applied on any device, byte-equal to Pillow.

Start at `views.build_view`.  The halves are kept apart: `draw*` functions turn a CPU generator into small CPU tensors
with one row a sample; everything else is a pure function of images and such tensors.
"""
