"""Texts, untranslated."""

from __future__ import annotations


def translate(context, text):
    return text


def tr(text):
    return text
