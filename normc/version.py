"""The version of normc, which every generated file names."""

VERSION = "0.1.0"
