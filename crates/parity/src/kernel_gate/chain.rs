//! What a case should give: its ops, one primitive after the other, on the
//! oracle.

use super::GateError;
use super::case::{Case, Data};
use graph::OpKind;
use hal::{Buffer, Device};
use registry::{
    Act, Binds, Entry, Operand, OperandRole, OperandSrc, Problem, ProblemOp, ROW_MAJOR, Registry,
    Request, RowsFrom, Scheme, TensorRef, Tuned,
};
use std::sync::Arc;

/// The tree that the others are compared with.
pub const ORACLE: &str = "cpu_reference";

/// What one op of a case yields.
#[derive(Clone, Debug, PartialEq)]
pub enum OpValue {
    /// The real rows, contiguous.
    Rows(Vec<f32>),
    Ids(Vec<u32>),
    /// The cache after the step, in its scheme.
    Cache(Vec<u8>),
    /// The pool of recurrent states after the step.
    States(Vec<f32>),
}

impl OpValue {
    pub fn rows(&self) -> &[f32] {
        match self {
            OpValue::Rows(x) => x,
            _ => &[],
        }
    }
}

/// Computes cases: the outputs of each op of the pattern.
pub trait Oracle {
    fn eval(&self, case: &Case) -> Result<Vec<Vec<OpValue>>, GateError>;
}

/// The problem of each op of a pattern on its own, matrices in the file's order.
pub fn primitives(problem: &Problem) -> Vec<Problem> {
    let mut made: Vec<Operand> = Vec::new();
    let mut out = Vec::new();
    for op in &problem.ops {
        let kind = op.op.kind();
        let mut inputs: Vec<Operand> = Vec::new();
        let mut known: Vec<OperandSrc> = Vec::new();
        let mut sources = Vec::new();
        for src in &op.inputs {
            let at = known.iter().position(|k| k == src).unwrap_or_else(|| {
                known.push(*src);
                inputs.push(match *src {
                    OperandSrc::Input(n) => problem.inputs[n].clone(),
                    OperandSrc::Op(j) => made[j].clone(),
                });
                inputs.len() - 1
            });
            sources.push(OperandSrc::Input(at));
        }
        for o in &mut inputs {
            o.layout = ROW_MAJOR;
        }
        let rows = match kind {
            OpKind::Embed | OpKind::RopeTable => RowsFrom::Batch,
            OpKind::GatherRows => RowsFrom::Logits,
            _ => inputs[0].rows,
        };
        let activation = |scheme| Operand {
            role: OperandRole::Activation,
            rows,
            shape: op.shape.clone(),
            scheme,
            layout: ROW_MAJOR,
            cache: None,
            state: None,
        };
        let updated = kind.updates().map(|slot| match sources[slot] {
            OperandSrc::Input(at) | OperandSrc::Op(at) => inputs[at].clone(),
        });
        let outputs = match (kind, updated) {
            (OpKind::KvAppend | OpKind::LatentAppend, Some(cache)) => vec![cache],
            (_, Some(state)) => vec![activation(Scheme::F32), state],
            (OpKind::Route, _) => vec![activation(Scheme::F32), activation(Scheme::U32)],
            (OpKind::ArgMax | OpKind::TopK | OpKind::ExpSum, _) => vec![activation(Scheme::U32)],
            _ => vec![activation(Scheme::F32)],
        };
        made.push(outputs[0].clone());
        out.push(Problem {
            ops: vec![ProblemOp {
                op: op.op.clone(),
                inputs: sources,
                shape: op.shape.clone(),
                output: Some(0),
            }],
            inputs,
            outputs,
            rows: problem.rows,
            step: problem.step.clone(),
            device: problem.device.clone(),
        });
    }
    out
}

/// The kernels of a backend that compute a pattern op by op, those of ops that have
/// an activation format in the one asked for.
pub fn resolve_chain<'r>(
    registry: &'r Registry,
    backend: &str,
    problem: &Problem,
    act: Act,
) -> Result<Vec<(&'r Entry, Problem)>, GateError> {
    let tuned = Tuned::default();
    primitives(problem)
        .into_iter()
        .map(|p| {
            let has_act = p.ops[0].op.kind().has_act();
            let request = Request {
                backend,
                problem: &p,
                tuned: &tuned,
                act: Some(if has_act { act } else { Act::F32 }),
                variant: None,
            };
            let entry = registry.resolve(&request)?.entry;
            Ok((entry, p))
        })
        .collect()
}

/// The chain of primitives of [`ORACLE`].
pub struct ChainOracle<'r> {
    registry: &'r Registry,
    device: Arc<dyn Device>,
}

impl<'r> ChainOracle<'r> {
    pub fn open(registry: &'r Registry) -> Result<Self, GateError> {
        let backend = registry.backend(ORACLE)?;
        let device = backend.open_device(&registry::OpenOptions::default())?;
        Ok(ChainOracle { registry, device })
    }

    /// A contiguous operand in a buffer of its own.
    fn place(&self, operand: &Operand, data: Option<&[u8]>) -> Result<TensorRef, GateError> {
        let elements: usize = operand.shape.iter().product();
        let bytes = match (operand.role, data) {
            (OperandRole::Cache | OperandRole::State, Some(data)) => data.len() as u64,
            _ => operand.scheme.row_bytes(elements).unwrap_or(0),
        };
        let buffer = self.device.alloc(bytes.max(4), "oracle")?;
        if let Some(data) = data {
            self.device.upload(&buffer, 0, data)?;
        }
        Ok(TensorRef::contiguous(&buffer, 0, operand, bytes))
    }

    fn download(&self, buffer: &Buffer, bytes: usize) -> Result<Vec<u8>, GateError> {
        let mut out = vec![0; bytes];
        self.device.download(buffer, 0, &mut out)?;
        Ok(out)
    }
}

pub(super) fn bytes_of<T: Copy, const N: usize>(words: &[T], f: fn(T) -> [u8; N]) -> Vec<u8> {
    words
        .iter()
        .map(|w| f(*w))
        .collect::<Vec<_>>()
        .into_flattened()
}

impl Oracle for ChainOracle<'_> {
    fn eval(&self, case: &Case) -> Result<Vec<Vec<OpValue>>, GateError> {
        let problem = &case.problem;
        let mut external: Vec<TensorRef> = Vec::new();
        let mut pool: Option<TensorRef> = None;
        for (operand, data) in problem.inputs.iter().zip(&case.inputs) {
            let bytes = match data {
                Data::Rows(x) | Data::Vector(x) => bytes_of(x, f32::to_le_bytes),
                Data::Ids(x) => bytes_of(x, u32::to_le_bytes),
                Data::Matrix { bytes, .. } | Data::Cache(bytes) => bytes.clone(),
                Data::State => {
                    // All states lie in one pool.
                    if pool.is_none() {
                        let bytes = bytes_of(&case.states, f32::to_le_bytes);
                        pool = Some(self.place(operand, Some(&bytes))?);
                    }
                    external.extend(pool.clone());
                    continue;
                }
            };
            external.push(self.place(operand, Some(&bytes))?);
        }
        let words = case.batch.words(&problem.step);
        let step = self.device.alloc(problem.step.bytes(), "step")?;
        self.device
            .upload(&step, 0, &bytes_of(&words, u32::to_le_bytes))?;
        let step_operand = Operand {
            role: OperandRole::Vector,
            rows: RowsFrom::Fixed,
            shape: vec![words.len()],
            scheme: Scheme::U32,
            layout: ROW_MAJOR,
            cache: None,
            state: None,
        };
        let step = TensorRef::contiguous(&step, 0, &step_operand, problem.step.bytes());

        let mut recorder = self.device.recorder("oracle")?;
        let mut made: Vec<Vec<TensorRef>> = Vec::new();
        let chain = resolve_chain(self.registry, ORACLE, problem, case.act)?;
        for (op, (entry, p)) in problem.ops.iter().zip(&chain) {
            let mut inputs: Vec<TensorRef> = vec![step.clone(); p.inputs.len()];
            for (src, at) in op.inputs.iter().zip(&p.ops[0].inputs) {
                if let OperandSrc::Input(at) = *at {
                    inputs[at] = match *src {
                        OperandSrc::Input(n) => external[n].clone(),
                        OperandSrc::Op(j) => made[j][0].clone(),
                    };
                }
            }
            let updated = p.ops[0].op.kind().updates();
            let updated = updated.and_then(|slot| p.input(0, slot));
            let mut outputs = Vec::new();
            for o in &p.outputs {
                outputs.push(match (o.role, updated) {
                    (OperandRole::Cache | OperandRole::State, Some((at, _))) => inputs[at].clone(),
                    _ => self.place(o, None)?,
                });
            }
            let prepared = entry.kernel.prepare(p, self.device.as_ref())?;
            let workspace = match prepared.workspace() {
                0 => None,
                bytes => {
                    let buffer = self.device.alloc(bytes, "oracle workspace")?;
                    Some(TensorRef {
                        bytes,
                        ..TensorRef::contiguous(&buffer, 0, &step_operand, bytes)
                    })
                }
            };
            let binds = Binds {
                inputs,
                outputs: outputs.clone(),
                workspace,
                step: step.clone(),
            };
            prepared.record(recorder.as_mut(), &binds)?;
            made.push(outputs);
        }
        recorder.finish()?.run()?;

        let value = |t: &TensorRef, operand: &Operand| -> Result<OpValue, GateError> {
            let real = match operand.role {
                OperandRole::Activation => case.rows(operand) * operand.row_len() * 4,
                _ => t.bytes as usize,
            };
            let bytes = self.download(&t.buffer, real)?;
            let words = bytes.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w));
            Ok(match (operand.role, operand.scheme) {
                (OperandRole::Cache, _) => OpValue::Cache(bytes),
                (OperandRole::State, _) => OpValue::States(words.map(f32::from_bits).collect()),
                (_, Scheme::U32) => OpValue::Ids(words.collect()),
                _ => OpValue::Rows(words.map(f32::from_bits).collect()),
            })
        };
        let ops = made.iter().zip(&chain);
        ops.map(|(refs, (_, p))| {
            let outputs = refs.iter().zip(&p.outputs);
            outputs.map(|(t, operand)| value(t, operand)).collect()
        })
        .collect()
    }
}
