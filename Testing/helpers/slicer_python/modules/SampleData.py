"""Where modules offer sample data."""

from __future__ import annotations

from types import SimpleNamespace

import slicer


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        vars(slicer.modules).setdefault("sampleDataSourceCategories", {})[category] = {"title": title}

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties={},  # noqa: B006
        checksums=None,
        loadFileType=None,
    ):
        source = SimpleNamespace(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            thumbnailFileName=thumbnailFileName,
            checksums=checksums,
        )
        vars(slicer.modules).setdefault("sampleDataSources", {}).setdefault(category, []).append(source)
