"""The HTML report: data for the templates, and the templates themselves.

- `render`: writes report.html, and the pages of `diff` and `replay`.
- `page` and `page_*`: the report from top to bottom, one module for each group of sections.
- `cards`: one cause on its smallest batch.
- `pictures`: an image's assignment as a drawing.
- `explanations`: the reasons for an anchor's assignment, in words.
- `walkthrough`: one photograph through every stage of the assigner.
- `differences`: the page of `diff`.
"""
