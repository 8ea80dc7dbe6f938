"""Speech and transcription by mlx-audio, the extra `tandem-proxy[audio]`."""
