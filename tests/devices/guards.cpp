// No-op device guards and hooks, without which a CPU build of torch carries no tensor of a CUDA or MPS device through
// its C++: the autograd engine, generators, questions about devices. SIMULATED_DEVICE says which of the two is there.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdlib>
#include <cstring>

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

static bool there(const char* kind) {
  const char* simulated = std::getenv("SIMULATED_DEVICE");
  return simulated && !std::strcmp(simulated, kind);
}

// One stream, in order: what was recorded has always happened already.
template <DeviceType Type, int Count>
struct Guard final : c10::impl::NoOpDeviceGuardImpl<Type> {
  static thread_local DeviceIndex current;
  static void make_current(DeviceIndex index) {
    if (index >= 0) current = index;
  }
  Device exchangeDevice(Device device) const override {
    const DeviceIndex before = current;
    make_current(device.index());
    return Device(Type, before);
  }
  Device getDevice() const override { return Device(Type, current); }
  void setDevice(Device device) const override { make_current(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept override { make_current(device.index()); }
  Stream getStream(Device device) const noexcept override {
    return Stream(Stream::DEFAULT, Device(Type, device.index() >= 0 ? device.index() : current));
  }
  Stream getNewStream(Device device, int = 0) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const noexcept override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return Count; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};
template <DeviceType Type, int Count>
thread_local DeviceIndex Guard<Type, Count>::current = 0;

using CudaGuard = Guard<DeviceType::CUDA, 2>;
using MpsGuard = Guard<DeviceType::MPS, 1>;
static c10::impl::DeviceGuardImplRegistrar cuda_guard(DeviceType::CUDA, new CudaGuard());
static c10::impl::DeviceGuardImplRegistrar mps_guard(DeviceType::MPS, new MpsGuard());

struct Generator : at::CPUGeneratorImpl {
  explicit Generator(Device device) { device_ = device; }
};
static at::Generator new_generator(DeviceType type, DeviceIndex index) {
  return at::make_generator<Generator>(Device(type, index < 0 ? 0 : index));
}

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return there("cuda"); }
  bool isAvailable() const override { return there("cuda"); }
  bool hasCUDA() const override { return there("cuda"); }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return there("cuda") ? 2 : 0; }
  DeviceIndex current_device() const override { return CudaGuard::current; }
  DeviceIndex getCurrentDevice() const override { return CudaGuard::current; }
  void setCurrentDevice(DeviceIndex index) const override { CudaGuard::make_current(index); }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    const DeviceIndex before = CudaGuard::current;
    CudaGuard::make_current(index);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  at::Generator getNewGenerator(DeviceIndex index = -1) const override {
    return new_generator(DeviceType::CUDA, index);
  }
  const at::Generator& getDefaultGenerator(DeviceIndex index = -1) const override {
    static at::Generator generators[2] = {new_generator(DeviceType::CUDA, 0), new_generator(DeviceType::CUDA, 1)};
    return generators[index < 0 ? CudaGuard::current : index];
  }
};

struct MPSHooks final : at::MPSHooksInterface {
  MPSHooks() = default;
  void init() const override {}
  bool isBuilt() const override { return there("mps"); }
  bool isAvailable() const override { return there("mps"); }
  bool hasMPS() const override { return there("mps"); }
  bool isOnMacOSorNewer(unsigned = 13, unsigned = 0) const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return there("mps") ? 1 : 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  at::Generator getNewGenerator(DeviceIndex index) const override { return new_generator(DeviceType::MPS, index); }
  const at::Generator& getDefaultGenerator(DeviceIndex = -1) const override {
    static at::Generator generator = new_generator(DeviceType::MPS, 0);
    return generator;
  }
};

namespace at {
C10_REGISTER_CLASS_WITH_PRIORITY(CUDAHooksRegistry, CUDAHooks, c10::REGISTRY_PREFERRED, CUDAHooks)
C10_REGISTER_CLASS_WITH_PRIORITY(MPSHooksRegistry, MPSHooks, c10::REGISTRY_PREFERRED, MPSHooks)
}  // namespace at
