"""Models that read images: mlx-vlm's, behind the protocol of `adapters.mlx.vision.protocol`."""
