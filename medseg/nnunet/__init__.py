"""Models that nnU-Net 2 trained, as model packages: plans, networks, weights and preprocessing.

The formats are those of nnU-Net 2 (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): ``plans.json``,
``dataset.json`` and ``fold_*/checkpoint_final.pth`` of a folder of results.
"""
