//! How instruction sets are written down.

/// Methods whose bodies are intrinsics.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        $(
            #[inline(always)]
            fn $name(self $(, $arg: $ty)*) $(-> $ret)? {
                // SAFETY: `self` exists only where the CPU has the instructions.
                unsafe { $body }
            }
        )*
    };
}
pub(crate) use intrinsics;

/// As [`intrinsics`], for those that follow a pointer.
macro_rules! memory_intrinsics {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        $(
            #[inline(always)]
            unsafe fn $name(self $(, $arg: $ty)*) $(-> $ret)? {
                // SAFETY: the CPU has the instructions, and the caller vouches
                // for the memory.
                unsafe { $body }
            }
        )*
    };
}
pub(crate) use memory_intrinsics;
