"""`softmaxloss export`: a trained model as an ONNX file."""

from pathlib import Path

from softmaxloss.cli import CommandError, standard_output
from softmaxloss.cli.data import read_model
from softmaxloss.cli.outputs import check_out, check_parent, write_all


def run_export(model_path: Path, out: Path, opset: int) -> None:
    """Write the model, and print its inputs."""
    if out.suffix.lower() != ".onnx":
        raise CommandError(f"--out {out} must end in .onnx")
    check_parent(out)
    check_out(out.parent, [out.name], lambda content: not content or b"softmaxloss" in content)
    try:
        from softmaxloss.onnx import to_onnx  # noqa: PLC0415 - onnx may be missing: it is another extra
    except ImportError as error:
        raise CommandError(str(error)) from error
    model = read_model(model_path)
    facts = {
        "target_name": model.target_name,
        "class_counts": model.class_counts.tolist(),
        "id_columns": model.id_columns,
        "column_names": model.column_names,
        "options": model.options,
    }
    try:
        exported = to_onnx(model.pipeline, opset=opset, metadata=facts)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{model_path}: {error}") from error
    write_all(out.parent, {out.name: exported.SerializeToString()})
    with standard_output():
        columns, inputs = model.preparation.columns, exported.graph.input
        if inputs[0].doc_string:
            print(f"wrote {out}; its inputs, each of shape (rows, 1):")
            print("\n".join(f"  {one.name}: {one.doc_string}" for one in inputs))
        else:
            print(f"wrote {out}; its input X has {len(columns)} columns of float64: {', '.join(columns)}")
