// A Vulkan layer for drivers that compile shaders and have no GPU: one memory type is made up, commands and submits do nothing, and
// a semaphore is a number. Without it wgpu cannot open a device of RADV's null winsys.
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

// What lies below this layer. One instance and one device at a time are enough.
static struct {
  VkInstance instance;
  PFN_vkGetInstanceProcAddr instance_function;
  PFN_vkGetDeviceProcAddr device_function;
  PFN_vkGetBufferMemoryRequirements requirements;
  PFN_vkGetBufferMemoryRequirements2 requirements2;
} next;

typedef struct { uint64_t value; } Semaphore;

static Semaphore *semaphore(VkSemaphore handle) { return (Semaphore *)(uintptr_t)handle; }

static const void *chained(const void *first, VkStructureType type) {
  const VkBaseInStructure *at = first;
  while (at && at->sType != type) at = at->pNext;
  return at;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_semaphore(VkDevice device, const VkSemaphoreCreateInfo *info,
                                                       const VkAllocationCallbacks *allocator, VkSemaphore *out) {
  const VkSemaphoreTypeCreateInfo *type = chained(info->pNext, VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO);
  Semaphore *made = calloc(1, sizeof *made);
  if (!made) return VK_ERROR_OUT_OF_HOST_MEMORY;
  if (type) made->value = type->initialValue;
  *out = (VkSemaphore)(uintptr_t)made;
  return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL destroy_semaphore(VkDevice device, VkSemaphore handle, const VkAllocationCallbacks *allocator) {
  free(semaphore(handle));
}

static VKAPI_ATTR VkResult VKAPI_CALL semaphore_value(VkDevice device, VkSemaphore handle, uint64_t *value) {
  *value = __atomic_load_n(&semaphore(handle)->value, __ATOMIC_SEQ_CST);
  return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL wait_semaphores(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout) {
  return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL queue_submit(VkQueue queue, uint32_t count, const VkSubmitInfo *submits, VkFence fence) {
  for (uint32_t i = 0; i < count; i++) {
    const VkTimelineSemaphoreSubmitInfo *timeline =
        chained(submits[i].pNext, VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO);
    for (uint32_t k = 0; timeline && k < timeline->signalSemaphoreValueCount; k++)
      __atomic_store_n(&semaphore(submits[i].pSignalSemaphores[k])->value, timeline->pSignalSemaphoreValues[k], __ATOMIC_SEQ_CST);
  }
  return VK_SUCCESS;
}

// Stands for every command and every wait: callers look at no more than the result.
static VkResult nothing(void) { return VK_SUCCESS; }

static VKAPI_ATTR void VKAPI_CALL memory_properties(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties *out) {
  memset(out, 0, sizeof *out);
  out->memoryHeapCount = out->memoryTypeCount = 1;
  out->memoryHeaps[0] = (VkMemoryHeap){16ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
  out->memoryTypes[0].propertyFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                      VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
}

static VKAPI_ATTR void VKAPI_CALL memory_properties2(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties2 *out) {
  memory_properties(device, &out->memoryProperties);
}

static VKAPI_ATTR void VKAPI_CALL requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements *out) {
  next.requirements(device, buffer, out);
  out->memoryTypeBits = 1;
}

static VKAPI_ATTR void VKAPI_CALL requirements2(VkDevice device, const VkBufferMemoryRequirementsInfo2 *info,
                                                VkMemoryRequirements2 *out) {
  next.requirements2(device, info, out);
  out->memoryRequirements.memoryTypeBits = 1;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator,
                                                      VkInstance *out) {
  VkLayerInstanceCreateInfo *link = (void *)info->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
    link = (void *)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  next.instance_function = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  PFN_vkCreateInstance create = (PFN_vkCreateInstance)next.instance_function(NULL, "vkCreateInstance");
  VkResult result = create(info, allocator, out);
  if (result == VK_SUCCESS) next.instance = *out;
  return result;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                                    const VkAllocationCallbacks *allocator, VkDevice *out) {
  VkLayerDeviceCreateInfo *link = (void *)info->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
    link = (void *)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  next.device_function = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  PFN_vkCreateDevice create = (PFN_vkCreateDevice)next.instance_function(next.instance, "vkCreateDevice");
  VkResult result = create(physical, info, allocator, out);
  if (result != VK_SUCCESS) return result;
  next.requirements = (PFN_vkGetBufferMemoryRequirements)next.device_function(*out, "vkGetBufferMemoryRequirements");
  next.requirements2 = (PFN_vkGetBufferMemoryRequirements2)next.device_function(*out, "vkGetBufferMemoryRequirements2");
  return VK_SUCCESS;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char *name);
static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char *name);

static const struct {
  const char *name;
  PFN_vkVoidFunction function;
} own[] = {
    {"vkGetInstanceProcAddr", (PFN_vkVoidFunction)instance_function},
    {"vkGetDeviceProcAddr", (PFN_vkVoidFunction)device_function},
    {"vkCreateInstance", (PFN_vkVoidFunction)create_instance},
    {"vkCreateDevice", (PFN_vkVoidFunction)create_device},
    {"vkCreateSemaphore", (PFN_vkVoidFunction)create_semaphore},
    {"vkDestroySemaphore", (PFN_vkVoidFunction)destroy_semaphore},
    {"vkGetSemaphoreCounterValue", (PFN_vkVoidFunction)semaphore_value},
    {"vkGetSemaphoreCounterValueKHR", (PFN_vkVoidFunction)semaphore_value},
    {"vkWaitSemaphores", (PFN_vkVoidFunction)wait_semaphores},
    {"vkWaitSemaphoresKHR", (PFN_vkVoidFunction)wait_semaphores},
    {"vkQueueSubmit", (PFN_vkVoidFunction)queue_submit},
    {"vkQueueWaitIdle", (PFN_vkVoidFunction)nothing},
    {"vkDeviceWaitIdle", (PFN_vkVoidFunction)nothing},
    {"vkBeginCommandBuffer", (PFN_vkVoidFunction)nothing},
    {"vkEndCommandBuffer", (PFN_vkVoidFunction)nothing},
    {"vkResetCommandBuffer", (PFN_vkVoidFunction)nothing},
    {"vkGetPhysicalDeviceMemoryProperties", (PFN_vkVoidFunction)memory_properties},
    {"vkGetPhysicalDeviceMemoryProperties2", (PFN_vkVoidFunction)memory_properties2},
    {"vkGetPhysicalDeviceMemoryProperties2KHR", (PFN_vkVoidFunction)memory_properties2},
    {"vkGetBufferMemoryRequirements", (PFN_vkVoidFunction)requirements},
    {"vkGetBufferMemoryRequirements2", (PFN_vkVoidFunction)requirements2},
    {"vkGetBufferMemoryRequirements2KHR", (PFN_vkVoidFunction)requirements2},
};

static PFN_vkVoidFunction find(const char *name) {
  if (!strncmp(name, "vkCmd", 5)) return (PFN_vkVoidFunction)nothing;
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (!strcmp(own[i].name, name)) return own[i].function;
  return NULL;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char *name) {
  PFN_vkVoidFunction found = find(name);
  return found ? found : next.device_function(device, name);
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char *name) {
  PFN_vkVoidFunction found = find(name);
  return found ? found : next.instance_function(instance, name);
}

// The loader's way in; all else is static, as exported Vulkan functions would be taken for the loader's own.
__attribute__((visibility("default"))) VkResult vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *interface) {
  interface->loaderLayerInterfaceVersion = 2;
  interface->pfnGetInstanceProcAddr = instance_function;
  interface->pfnGetDeviceProcAddr = device_function;
  interface->pfnGetPhysicalDeviceProcAddr = NULL;
  return VK_SUCCESS;
}
