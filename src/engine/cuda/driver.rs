//! The CUDA driver, as far as this engine needs it: one device, its memory, modules, launches and events.
//!
//! cudarc finds and opens the driver's library; the functions are looked up here with plain `i32` results, because
//! cudarc's result codes are a closed enum and a code it does not know would be undefined behaviour. Every failure
//! becomes an [`EngineError`] with the driver's own number. What is computed is the other files' business.

use crate::engine::EngineError;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

type Handle = *mut c_void;

macro_rules! driver_api {
    ($($field:ident: $symbol:literal ($($arg:ty),*);)*) => {
        /// The driver's functions.
        struct Api { $($field: unsafe extern "C" fn($($arg),*) -> i32,)* }
        impl Api {
            fn open() -> Result<Api, EngineError> {
                // SAFETY: opening the library runs its initialisers, which is what a CUDA program does.
                if !unsafe { cudarc::driver::sys::is_culib_present() } {
                    return Err(EngineError::Request(
                        "no CUDA driver on this machine (libcuda.so.1 cannot be loaded); install the NVIDIA driver, or use --backend cpu".into(),
                    ));
                }
                // SAFETY: as above; it is present.
                let library = unsafe { cudarc::driver::sys::culib() };
                Ok(Api { $($field: {
                    // SAFETY: the signature is that of the driver API's header (cuda.h), with the result as the int that it is.
                    let symbol = unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> i32>($symbol.as_bytes()) };
                    *symbol.map_err(|_| EngineError::Request(format!(
                        "the CUDA driver of this machine lacks {}; update the NVIDIA driver, or use --backend cpu", $symbol
                    )))?
                },)* })
            }
        }
    };
}

driver_api! {
    init: "cuInit" (u32);
    driver_version: "cuDriverGetVersion" (*mut i32);
    device_count: "cuDeviceGetCount" (*mut i32);
    device_get: "cuDeviceGet" (*mut i32, i32);
    device_name: "cuDeviceGetName" (*mut c_char, i32, i32);
    device_attribute: "cuDeviceGetAttribute" (*mut i32, i32, i32);
    context_create: "cuCtxCreate_v2" (*mut Handle, u32, i32);
    context_current: "cuCtxSetCurrent" (Handle);
    context_destroy: "cuCtxDestroy_v2" (Handle);
    memory_info: "cuMemGetInfo_v2" (*mut usize, *mut usize);
    allocate: "cuMemAlloc_v2" (*mut u64, usize);
    free: "cuMemFree_v2" (u64);
    host_allocate: "cuMemHostAlloc" (*mut *mut c_void, usize, u32);
    host_address: "cuMemHostGetDevicePointer_v2" (*mut u64, *mut c_void, u32);
    host_free: "cuMemFreeHost" (*mut c_void);
    upload: "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
    download: "cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
    copy: "cuMemcpyDtoDAsync_v2" (u64, u64, usize, Handle);
    fill: "cuMemsetD32Async" (u64, u32, usize, Handle);
    module_load: "cuModuleLoadData" (*mut Handle, *const c_void);
    module_unload: "cuModuleUnload" (Handle);
    module_function: "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    function_set: "cuFuncSetAttribute" (Handle, i32, i32);
    launch: "cuLaunchKernel" (Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void);
    stream_create: "cuStreamCreate" (*mut Handle, u32);
    stream_wait: "cuStreamSynchronize" (Handle);
    stream_destroy: "cuStreamDestroy_v2" (Handle);
    event_create: "cuEventCreate" (*mut Handle, u32);
    event_record: "cuEventRecord" (Handle, Handle);
    event_wait: "cuEventSynchronize" (Handle);
    event_elapsed: "cuEventElapsedTime" (*mut f32, Handle, Handle);
    event_destroy: "cuEventDestroy_v2" (Handle);
    error_name: "cuGetErrorName" (i32, *mut *const c_char);
}

const OUT_OF_MEMORY: i32 = 2;
const HOST_MAPPED: u32 = 2;
const ATTRIBUTE_SMS: i32 = 16;
const ATTRIBUTE_MAJOR: i32 = 75;
const ATTRIBUTE_MINOR: i32 = 76;
const ATTRIBUTE_SHARED_OPTIN: i32 = 97;
const FUNCTION_SHARED_MAX: i32 = 8;
const FUNCTION_SHARED_CARVEOUT: i32 = 9;

fn api() -> Result<&'static Api, EngineError> {
    static API: OnceLock<Result<Api, EngineError>> = OnceLock::new();
    API.get_or_init(|| {
        let api = Api::open()?;
        // SAFETY: no pointers.
        api.check("cuInit", unsafe { (api.init)(0) })?;
        Ok(api)
    })
    .as_ref()
    .map_err(Clone::clone)
}

impl Api {
    fn check(&self, operation: &str, code: i32) -> Result<(), EngineError> {
        if code == 0 {
            return Ok(());
        }
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: `name` outlives the call; the driver leaves it alone for codes it does not know.
        unsafe { (self.error_name)(code, &raw mut name) };
        let name = if name.is_null() {
            "unknown".into()
        } else {
            // SAFETY: the driver gives a static C string.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(EngineError::Device { operation: operation.into(), code, name })
    }
}

/// What can be known of a device without making a context on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// CUDA ordinal.
    pub ordinal: u32,
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Most shared memory that one block can have, bytes.
    pub shared_bytes_max: u32,
    /// CUDA version that the driver supports, such as 13000.
    pub driver_version: i32,
}

/// All devices that the driver shows. No driver is an error; no device is an empty list.
pub fn devices() -> Result<Vec<DeviceFacts>, EngineError> {
    let api = api()?;
    let mut count = 0;
    // SAFETY: the out pointer is valid.
    api.check("cuDeviceGetCount", unsafe { (api.device_count)(&raw mut count) })?;
    (0..count).map(|ordinal| facts(api, ordinal)).collect()
}

fn facts(api: &Api, ordinal: i32) -> Result<DeviceFacts, EngineError> {
    let (mut device, mut driver_version) = (0, 0);
    let mut name = [0; 256];
    // SAFETY: out pointers are valid, the name's length is given.
    unsafe {
        api.check("cuDeviceGet", (api.device_get)(&raw mut device, ordinal))?;
        api.check("cuDeviceGetName", (api.device_name)(name.as_mut_ptr(), 256, device))?;
        api.check("cuDriverGetVersion", (api.driver_version)(&raw mut driver_version))?;
    }
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: the out pointer is valid.
        api.check("cuDeviceGetAttribute", unsafe { (api.device_attribute)(&raw mut value, which, device) })?;
        Ok(value)
    };
    name[255] = 0;
    // SAFETY: terminated just above.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(DeviceFacts {
        ordinal: ordinal as u32,
        name,
        compute: (attribute(ATTRIBUTE_MAJOR)?, attribute(ATTRIBUTE_MINOR)?),
        multiprocessors: attribute(ATTRIBUTE_SMS)? as u32,
        shared_bytes_max: attribute(ATTRIBUTE_SHARED_OPTIN)? as u32,
        driver_version,
    })
}

/// One device with a context and a stream of its own.
pub struct Device {
    api: &'static Api,
    facts: DeviceFacts,
    context: Handle,
    stream: Handle,
    held_bytes: AtomicU64,
}

// SAFETY: the driver's handles may be used from any thread; the context is made current before every use (`enter`).
unsafe impl Send for Device {}
// SAFETY: as above; the driver API is thread-safe and the count is atomic.
unsafe impl Sync for Device {}

impl Device {
    /// Makes a context on device `ordinal`.
    pub fn open(ordinal: u32) -> Result<Arc<Device>, EngineError> {
        let api = api()?;
        let all = devices()?;
        let Some(facts) = all.get(ordinal as usize).cloned() else {
            let count = all.len();
            return Err(EngineError::Request(format!("there is no CUDA device {ordinal}; the driver shows {count}")));
        };
        let (mut device, mut context, mut stream) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: out pointers are valid.
        unsafe {
            api.check("cuDeviceGet", (api.device_get)(&raw mut device, ordinal as i32))?;
            api.check("cuCtxCreate", (api.context_create)(&raw mut context, 0, device))?;
            api.check("cuStreamCreate", (api.stream_create)(&raw mut stream, 1))?;
        }
        Ok(Arc::new(Device { api, facts, context, stream, held_bytes: AtomicU64::new(0) }))
    }

    /// What it is.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// Bytes allocated through [`Buffer`] and not yet freed.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Makes the context current on this thread. Everything else assumes it.
    pub fn enter(&self) -> Result<(), EngineError> {
        // SAFETY: the context lives as long as `self`.
        self.api.check("cuCtxSetCurrent", unsafe { (self.api.context_current)(self.context) })
    }

    /// Free and total device memory, bytes.
    pub fn memory(&self) -> Result<(u64, u64), EngineError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: out pointers are valid.
        self.api.check("cuMemGetInfo", unsafe { (self.api.memory_info)(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// Waits for all that was asked of the device.
    pub fn wait(&self, operation: &str) -> Result<(), EngineError> {
        // SAFETY: the stream lives as long as `self`.
        self.api.check(operation, unsafe { (self.api.stream_wait)(self.stream) })
    }

    /// Launches `function` over `grid` blocks of `block` threads. `arguments` point at values of the kernel's parameter types.
    ///
    /// # Safety
    /// The arguments must be what the kernel takes, and what it then reads and writes must be allocated.
    pub unsafe fn launch(
        &self,
        function: &Function,
        grid: (u32, u32),
        block: u32,
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), EngineError> {
        let pointers = arguments.as_mut_ptr();
        // SAFETY: the caller's; the handles are alive.
        let code = unsafe {
            let none = std::ptr::null_mut();
            (self.api.launch)(
                function.handle,
                grid.0,
                grid.1,
                1,
                block,
                1,
                1,
                shared_bytes,
                self.stream,
                pointers,
                none,
            )
        };
        if code == 0 { Ok(()) } else { self.api.check(&format!("launch of {}", function.name), code) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: buffers and modules hold an `Arc` of this device, so none is left. Errors at the end change nothing.
        unsafe {
            (self.api.stream_destroy)(self.stream);
            (self.api.context_destroy)(self.context);
        }
    }
}

/// Device memory, freed with it.
pub struct Buffer {
    device: Arc<Device>,
    at: u64,
    bytes: u64,
}

impl Buffer {
    /// Allocates; `what` names it where it does not fit. Never empty (at least 16 bytes).
    pub fn new(device: &Arc<Device>, what: &str, bytes: u64) -> Result<Buffer, EngineError> {
        let bytes = bytes.max(16);
        let mut at = 0;
        // SAFETY: the out pointer is valid.
        let code = unsafe { (device.api.allocate)(&raw mut at, bytes as usize) };
        if code == OUT_OF_MEMORY {
            let free_bytes = device.memory().map_or(0, |(free, _)| free);
            let what = format!("{what} on CUDA device {} ({})", device.facts.ordinal, device.facts.name);
            return Err(EngineError::Memory { what, needed_bytes: bytes, free_bytes });
        }
        device.api.check(&format!("allocation of {what}"), code)?;
        device.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Buffer { device: Arc::clone(device), at, bytes })
    }

    /// As [`Buffer::new`], every 32-bit word `word`.
    pub fn filled(device: &Arc<Device>, what: &str, bytes: u64, word: u32) -> Result<Buffer, EngineError> {
        let buffer = Buffer::new(device, what, bytes.next_multiple_of(4))?;
        buffer.fill(word)?;
        Ok(buffer)
    }

    /// As [`Buffer::new`], with contents.
    pub fn of<T: Copy>(device: &Arc<Device>, what: &str, values: &[T]) -> Result<Buffer, EngineError> {
        let buffer = Buffer::new(device, what, size_of_val(values) as u64)?;
        buffer.upload(0, values)?;
        Ok(buffer)
    }

    /// Its address on the device.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// How large it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets every 32-bit word, in stream order.
    pub fn fill(&self, word: u32) -> Result<(), EngineError> {
        // SAFETY: within the allocation.
        let code = unsafe { (self.device.api.fill)(self.at, word, (self.bytes / 4) as usize, self.device.stream) };
        self.device.api.check("cuMemsetD32Async", code)
    }

    /// Copies to byte `offset`, after all queued work; returns when it is done. (In the stream's own order: the plain
    /// copy may return before the device has the last bytes, and a kernel of a non-blocking stream would not wait for it.)
    pub fn upload<T: Copy>(&self, offset: u64, values: &[T]) -> Result<(), EngineError> {
        let bytes = size_of_val(values);
        assert!(offset + bytes as u64 <= self.bytes, "upload of {bytes} bytes at {offset} into {}", self.bytes);
        let (api, stream) = (self.device.api, self.device.stream);
        // SAFETY: both ranges are valid for `bytes`, and the host's outlives the wait below.
        let code = unsafe { (api.upload)(self.at + offset, values.as_ptr().cast(), bytes, stream) };
        api.check("cuMemcpyHtoDAsync", code)?;
        self.device.wait("upload")
    }

    /// Copies from byte `offset` after all queued work.
    pub fn download<T: Copy>(&self, offset: u64, values: &mut [T]) -> Result<(), EngineError> {
        let bytes = size_of_val(values);
        assert!(offset + bytes as u64 <= self.bytes, "download of {bytes} bytes at {offset} from {}", self.bytes);
        self.device.wait("step")?;
        // SAFETY: both ranges are valid for `bytes`; `T` is plain data wherever this is used.
        let code = unsafe { (self.device.api.download)(values.as_mut_ptr().cast(), self.at + offset, bytes) };
        self.device.api.check("cuMemcpyDtoH", code)
    }

    /// Copies `bytes` within or between buffers, in stream order.
    pub fn copy_from(&self, to: u64, source: &Buffer, from: u64, bytes: u64) -> Result<(), EngineError> {
        assert!(to + bytes <= self.bytes && from + bytes <= source.bytes);
        // SAFETY: within both allocations.
        let code =
            unsafe { (self.device.api.copy)(self.at + to, source.at + from, bytes as usize, self.device.stream) };
        self.device.api.check("cuMemcpyDtoDAsync", code)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.device.enter(); // whichever thread drops it
        // SAFETY: allocated by `new`, freed once; the driver waits for work that uses it.
        unsafe { (self.device.api.free)(self.at) };
        self.device.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Host memory that kernels write straight into: a result is there when the stream has been waited for, without a copy.
pub struct Mapped<T: Copy> {
    device: Arc<Device>,
    host: *mut T,
    at: u64,
    length: usize,
}

// SAFETY: the only pointer to its memory, which any thread may use.
unsafe impl<T: Copy + Send> Send for Mapped<T> {}

impl<T: Copy + Default> Mapped<T> {
    /// `length` values, at first the default.
    pub fn new(device: &Arc<Device>, length: usize) -> Result<Mapped<T>, EngineError> {
        let (api, mut host, mut at) = (device.api, std::ptr::null_mut(), 0);
        // SAFETY: the out pointers are valid.
        unsafe {
            let bytes = (length * size_of::<T>()).max(16);
            api.check("cuMemHostAlloc", (api.host_allocate)(&raw mut host, bytes, HOST_MAPPED))?;
        }
        let host: *mut T = host.cast();
        let mut mapped = Mapped { device: Arc::clone(device), host, at: 0, length };
        // SAFETY: `length` values fit into what was allocated, which the driver aligns to a page.
        unsafe {
            (0..length).for_each(|index| host.add(index).write(T::default()));
            api.check("cuMemHostGetDevicePointer", (api.host_address)(&raw mut at, host.cast(), 0))?;
        }
        mapped.at = at;
        Ok(mapped)
    }

    /// Its address on the device.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the host that it takes.
    pub fn bytes(&self) -> u64 {
        (self.length * size_of::<T>()) as u64
    }

    /// What is there once all queued work is done.
    pub fn after(&self, operation: &str) -> Result<&[T], EngineError> {
        self.device.wait(operation)?;
        // SAFETY: written by `new`, and by kernels that have ended; nothing else writes while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(self.host, self.length) })
    }
}

impl<T: Copy> Drop for Mapped<T> {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: allocated by `new`, freed once.
        unsafe { (self.device.api.host_free)(self.host.cast()) };
    }
}

/// Kernels compiled by the driver from PTX.
pub struct Module {
    device: Arc<Device>,
    handle: Handle,
    name: &'static str,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Module {}

impl Module {
    /// Compiles `ptx`; `name` is for messages.
    pub fn new(device: &Arc<Device>, name: &'static str, ptx: &str) -> Result<Module, EngineError> {
        let text =
            CString::new(ptx).map_err(|_| EngineError::Request(format!("the PTX of {name} holds a zero byte")))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a terminated string and a valid out pointer.
        let code = unsafe { (device.api.module_load)(&raw mut handle, text.as_ptr().cast()) };
        device.api.check(&format!("loading {name}.ptx"), code)?;
        Ok(Module { device: Arc::clone(device), handle, name })
    }

    /// The kernel called `name`.
    pub fn function(&self, name: &'static str) -> Result<Function, EngineError> {
        let symbol = CString::new(name).map_err(|_| EngineError::Request("a kernel name with a zero byte".into()))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a terminated string and a valid out pointer.
        let code = unsafe { (self.device.api.module_function)(&raw mut handle, self.handle, symbol.as_ptr()) };
        self.device.api.check(&format!("looking up {name} in {}.ptx", self.name), code)?;
        Ok(Function { handle, name })
    }

    /// Lets `function` have `bytes` of dynamic shared memory.
    pub fn allow_shared(&self, function: &Function, bytes: u32) -> Result<(), EngineError> {
        let api = self.device.api;
        // SAFETY: no pointers but the function's own handle.
        unsafe {
            api.check("cuFuncSetAttribute", (api.function_set)(function.handle, FUNCTION_SHARED_MAX, bytes as i32))?;
            api.check("cuFuncSetAttribute", (api.function_set)(function.handle, FUNCTION_SHARED_CARVEOUT, 100))
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: loaded by `new`, unloaded once.
        unsafe { (self.device.api.module_unload)(self.handle) };
    }
}

/// A kernel; its module must outlive it.
#[derive(Clone, Copy)]
pub struct Function {
    handle: Handle,
    name: &'static str,
}

// SAFETY: as for `Module`.
unsafe impl Send for Function {}

/// Two events around work on the device's stream.
pub struct Stopwatch {
    device: Arc<Device>,
    events: [Handle; 2],
}

impl Stopwatch {
    /// Starts now, in stream order.
    pub fn start(device: &Arc<Device>) -> Result<Stopwatch, EngineError> {
        let mut events = [std::ptr::null_mut(); 2];
        for event in &mut events {
            // SAFETY: a valid out pointer.
            device.api.check("cuEventCreate", unsafe { (device.api.event_create)(&raw mut *event, 0) })?;
        }
        let watch = Stopwatch { device: Arc::clone(device), events };
        // SAFETY: both handles are alive.
        device.api.check("cuEventRecord", unsafe { (device.api.event_record)(watch.events[0], device.stream) })?;
        Ok(watch)
    }

    /// Milliseconds that the device took for what was queued since `start`.
    pub fn stop(self) -> Result<f32, EngineError> {
        let (api, mut milliseconds) = (self.device.api, 0.0);
        // SAFETY: handles are alive and the out pointer valid.
        unsafe {
            api.check("cuEventRecord", (api.event_record)(self.events[1], self.device.stream))?;
            api.check("cuEventSynchronize", (api.event_wait)(self.events[1]))?;
            api.check(
                "cuEventElapsedTime",
                (api.event_elapsed)(&raw mut milliseconds, self.events[0], self.events[1]),
            )?;
        }
        Ok(milliseconds)
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        for event in self.events {
            // SAFETY: made by `start`, destroyed once.
            unsafe { (self.device.api.event_destroy)(event) };
        }
    }
}

/// Launches a kernel with the given values as its arguments: `launch!(device, function, (x, y), block, shared; a, b, ...)`.
macro_rules! launch {
    ($device:expr, $function:expr, $grid:expr, $block:expr, $shared:expr; $($argument:expr),* $(,)?) => {{
        #[allow(unused_parens)]
        let run = || {
            launch!(@go $device, $function, $grid, $block, $shared; [] $($argument,)*)
        };
        run()
    }};
    (@go $device:expr, $function:expr, $grid:expr, $block:expr, $shared:expr; [$($pointer:expr,)*] $head:expr, $($tail:expr,)*) => {{
        let value = $head;
        launch!(@go $device, $function, $grid, $block, $shared; [$($pointer,)* (&raw const value).cast_mut().cast(),] $($tail,)*)
    }};
    (@go $device:expr, $function:expr, $grid:expr, $block:expr, $shared:expr; [$($pointer:expr,)*]) => {
        // SAFETY: the arguments are those of the kernel's signature, and the buffers that they point to are alive.
        unsafe { $device.launch(&$function, $grid, $block, $shared, &mut [$($pointer,)*]) }
    };
}
pub(super) use launch;
