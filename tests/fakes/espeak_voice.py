"""Sentences spoken by espeak-ng, for models that listen."""

import ctypes
import io
from typing import Any

import espeakng_loader
import numpy as np
import soundfile

_RETRIEVAL, _UTF8, _RATE_PARAMETER = 1, 1, 1
_WORDS_A_MINUTE = 140
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Speaker:
    """The library has one state for the whole process."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self._library.espeak_Initialize(_RETRIEVAL, 0, data, 0)
        self._pieces: list[np.ndarray] = []
        self._callback = _Callback(self._keep)

    def _keep(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str) -> np.ndarray:
        """Return 16-bit samples at `rate`."""
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_SetVoiceByName(voice.encode())
        self._library.espeak_SetParameter(_RATE_PARAMETER, _WORDS_A_MINUTE, 0)
        data = text.encode() + b"\0"
        size = ctypes.c_size_t(len(data))
        self._pieces.clear()
        self._library.espeak_Synth(data, size, 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces)


def to_wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
